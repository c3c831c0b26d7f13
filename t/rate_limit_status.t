# rate_limit_status, and $rate_limit_status with its family.
use strict;
use warnings;
use lib 't/lib';
use Sluice;

no_root_location();
plan 'no_plan';
run_tests();

__DATA__

=== TEST 1: other statuses, with the headers and the body of a refusal
--- http_config
    rate_limit_zone one zone=a:1m rate=1r/100s;
    rate_limit_status 503;
--- config
    rate_limit zone=a nodelay;
    location / { empty_gif; }
    location /599 { rate_limit_status 599; empty_gif; }
    location /400 { rate_limit_status 400; empty_gif; }
--- request eval
['GET /', 'GET /', 'GET /599', 'GET /400']
--- error_code eval
[200, 503, 599, 400]
--- response_body_like eval
['GIF', map { '^{"success":false,"error":{"code":"RATE_LIMIT_EXCEEDED","message":"Rate limit exceeded\. Please try again later\.","retryAfter":100}}$' } 1 .. 3]
--- response_headers eval
['Retry-After: ', ("Retry-After: 100\nCache-Control: no-store") x 3]


=== TEST 2: and after an error page, and for subrequests
--- http_config
    rate_limit_zone one zone=a:1m rate=1r/m;
--- config
    location / { rate_limit zone=a nodelay; error_page 429 = @page; empty_gif; }
    location @page { return 200 "$rate_limit_status $rate_limit_zone"; }
    location /sub { auth_request /auth; rate_limit zone=a nodelay cost=0; empty_gif; }
    location /auth { add_header S $rate_limit_status; empty_gif; }
--- request eval
['GET /', 'GET /', 'GET /sub']
--- error_code eval
[200, 200, 200]
--- response_body_like eval
['GIF', 'REJECTED a', 'GIF']
