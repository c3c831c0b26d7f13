# reject_format: the body of a refusal, to the letter.
use strict;
use warnings;
use lib 't/lib';
use Sluice;

add_block_preprocessor(sub {
    $_[0]->set_value(http_config => "rate_limit_zone one zone=a:1m rate=1r/100s;\nrate_limit zone=a nodelay;\n");
});
no_root_location();
plan 'no_plan';
run_tests();

__DATA__

=== TEST 1: json is the default
--- config
    location / { empty_gif; }
    location /json { reject_format json; empty_gif; }
--- request eval
['GET /', 'GET /', 'GET /json']
--- error_code eval
[200, 429, 429]
--- response_body_like eval
['GIF', map { '^\{"success":false,"error":\{"code":"RATE_LIMIT_EXCEEDED","message":"Rate limit exceeded\. Please try again later\.","retryAfter":100\}\}$' } 1, 2]
--- response_headers eval
['Content-Type: image/gif', ("Content-Type: application/json\nContent-Length: 130\nRetry-After: 100\nCache-Control: no-store") x 2]


=== TEST 2: problem
--- config
    reject_format problem;
    location / { empty_gif; }
--- request eval
['GET /', 'GET /']
--- error_code eval
[200, 429]
--- response_body_like eval
['GIF', '^\{(?=.*"type":"https://iana.org/assignments/http-problem-types#quota-exceeded")(?=.*"title":"Rate limit exceeded")(?=.*"status":429)(?=.*"detail":"Rate limit exceeded. Please try again later.")(?=.*"retryAfter":100).*\}$']
--- response_headers eval
['Content-Type: image/gif', "Content-Type: application/problem+json\nRetry-After: 100\nCache-Control: no-store"]


=== TEST 3: html is nginx's own page
--- config
    reject_format html;
    location / { empty_gif; }
--- request eval
['GET /', 'GET /']
--- error_code eval
[200, 429]
--- response_body_like eval
['GIF', '<center><h1>429 Too Many Requests</h1></center>']
--- response_headers eval
['Content-Type: image/gif', "Content-Type: text/html\nRetry-After: 100\nCache-Control: no-store"]


=== TEST 4: error_page wins, and the headers stay
--- config
    error_page 429 /page;
    location / { empty_gif; }
    location /named { error_page 429 @named; empty_gif; }
    location /turned { error_page 429 =420 /page; empty_gif; }
    location /fine { error_page 429 =200 /page; empty_gif; }
    location /away { error_page 429 http://example.com/busy; empty_gif; }
    location = /page { internal; default_type text/plain; return 200 "own page\n"; }
    location @named { default_type text/plain; return 429 "named page\n"; }
--- request eval
['GET /', 'GET /', 'GET /named', 'GET /turned', 'GET /fine', 'GET /away']
--- error_code eval
[200, 429, 429, 420, 200, 302]
--- response_body_like eval
['GIF', "^own page\n\$", "^named page\n\$", "^own page\n\$", "^own page\n\$", '302 Found']
--- response_headers eval
[
    'Retry-After: ',
    ("Retry-After: 100\nCache-Control: no-store\nX-RateLimit-Limit: 1\nX-RateLimit-Remaining: 0") x 3,
    ("Retry-After: \nX-RateLimit-Limit: 1") x 2,
]


=== TEST 5: an error page for another status changes nothing
--- config
    error_page 503 /page;
    location / { empty_gif; }
    location = /page { return 200 "own page\n"; }
--- request eval
['GET /', 'GET /']
--- error_code eval
[200, 429]
--- response_body_like eval
['GIF', 'RATE_LIMIT_EXCEEDED']


=== TEST 6: HEAD has the length and no body
--- config
    location / { empty_gif; }
--- request eval
['GET /', 'HEAD /']
--- error_code eval
[200, 429]
--- response_body_like eval
['GIF', '^$']
--- response_headers eval
['Retry-After: ', "Content-Length: 130\nContent-Type: application/json"]


=== TEST 7: an error page that is limited itself is not a loop
--- config
    error_page 429 /page;
    location / { empty_gif; }
    location = /page { rate_limit zone=a nodelay; root /no/such; }
--- request eval
['GET /', 'GET /']
--- error_code eval
[200, 404]
