# ban_status: the code of the refusal, 444 included; reject_format.
use strict;
use warnings;
use lib 't/lib';
use Sluice;

no_root_location();
plan 'no_plan';
run_tests();

__DATA__

=== TEST 1: other statuses, inherited; formats
--- http_config
    ban_zone one zone=a:1m;
    ban zone=a status=400 count=1 window=60s duration=60s;
    ban_status 429;
--- config
    location / { empty_gif; }
    location /503 { ban_status 503; reject_format problem; empty_gif; }
    location /404 { ban_status 404; reject_format html; empty_gif; }
    location /bad { return 400; }
--- request eval
['GET /', 'GET /bad', 'GET /', 'GET /503', 'GET /404']
--- error_code eval
[200, 400, 429, 503, 404]
--- response_body_like eval
['GIF', '400', '"code":"BANNED"', '^\{"type":"about:blank","title":"Access is blocked for now","status":503,"detail":"Access is blocked for now\. Please try again later\.","retryAfter":60\}$', '<h1>404 Not Found</h1>']
--- response_headers_like eval
['', '', 'Content-Type: application/json', 'Content-Type: application/problem\+json', 'Retry-After: 60']


=== TEST 2: its own status never counts, nor the page that stands for it
--- http_config
    ban_zone one zone=a:1m;
    ban zone=a status=404,403 count=2 window=60s duration=600ms;
--- config
    location / { error_page 403 =404 /page; }
    location = /page { return 404 "$ban_status"; }
--- request eval
['GET /x', 'GET /x', 'GET /x', 'GET /x', 'GET /x']
--- error_code eval
[404, 404, 404, 404, 404]
--- response_body_like eval
['404 Not Found', '404 Not Found', ('^BANNED$') x 3]


=== TEST 3: 444 closes the connection
--- http_config
    ban_zone one zone=a:1m;
--- config
    location / { ban zone=a status=404 count=1 window=60s duration=60s; ban_status 444; }
    location /try { proxy_pass http://127.0.0.1:$TEST_NGINX_SERVER_PORT/x; }
--- request eval
['GET /try', 'GET /try']
--- error_code eval
[404, 502]


=== TEST 4: wrong
--- config
    ban_status 200;
--- must_die
--- error_log
"ban_status" directive has invalid value "200" of "ban_status", a status from 400 to 599 expected in


=== TEST 5: twice
--- config
    ban_status 403;
    ban_status 404;
--- must_die
--- error_log
"ban_status" directive is duplicate in
