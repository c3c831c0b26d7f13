# rate_limit_headers: on, ietf, all and off; and Retry-After.
use strict;
use warnings;
use lib 't/lib';
use Sluice;

add_block_preprocessor(sub {
    $_[0]->set_value(http_config => <<'CONF') if !defined $_[0]->http_config;
    rate_limit_zone one zone=api:1m rate=100r/m burst=2;
    rate_limit_zone one zone=win:1m rate=2r/h algorithm=sliding_window;
CONF
});
no_root_location();
plan 'no_plan';
run_tests();

__DATA__

=== TEST 1: on is the default
--- config
    location / { rate_limit zone=api nodelay; rate_limit_reset delta; empty_gif; }
--- request eval
[map { 'GET /' } 1 .. 4]
--- error_code eval
[200, 200, 200, 429]
--- response_headers eval
[
    "X-RateLimit-Limit: 100\nX-RateLimit-Remaining: 2\nX-RateLimit-Reset: 1\nRetry-After: \nCache-Control: \nRateLimit: ",
    "X-RateLimit-Limit: 100\nX-RateLimit-Remaining: 1\nX-RateLimit-Reset: 2\nRetry-After: \nRateLimit: ",
    "X-RateLimit-Limit: 100\nX-RateLimit-Remaining: 0\nX-RateLimit-Reset: 2\nRetry-After: \nRateLimit: ",
    "X-RateLimit-Limit: 100\nX-RateLimit-Remaining: 0\nX-RateLimit-Reset: 2\nRetry-After: 1\nCache-Control: no-store\nRateLimit: ",
]


=== TEST 2: ietf
--- config
    location / { rate_limit zone=api nodelay; rate_limit_headers ietf; empty_gif; }
    location /w { rate_limit zone=api nodelay; rate_limit zone=win; rate_limit_headers ietf; empty_gif; }
--- request eval
['GET /', 'GET /w']
--- response_headers eval
[
    qq(RateLimit-Policy: "api";q=100;w=60;ngx-burst=2\nRateLimit: "api";r=2;t=2\nX-RateLimit-Limit: ),
    qq(RateLimit-Policy: "api";q=100;w=60;ngx-burst=2, "win";q=2;w=3600\nX-RateLimit-Limit: ),
]


=== TEST 3: all
--- config
    location / { rate_limit zone=win; rate_limit_headers all; empty_gif; }
--- request eval
['GET /', 'GET /', 'GET /']
--- error_code eval
[200, 200, 429]
--- response_headers eval
[
    qq(RateLimit-Policy: "win";q=2;w=3600\nX-RateLimit-Limit: 2\nX-RateLimit-Remaining: 1\nRetry-After: ),
    qq(RateLimit-Policy: "win";q=2;w=3600\nX-RateLimit-Limit: 2\nX-RateLimit-Remaining: 0\nRetry-After: ),
    qq(RateLimit-Policy: "win";q=2;w=3600\nX-RateLimit-Limit: 2\nX-RateLimit-Remaining: 0\nCache-Control: no-store),
]
--- response_headers_like eval
['RateLimit: "win";r=1;t=3\d{3}', 'RateLimit: "win";r=0;t=3\d{3}', "RateLimit: \"win\";r=0;t=3\\d{3}\nRetry-After: 3\\d{3}"]


=== TEST 4: off still tells a refused client when to come back
--- config
    location / { rate_limit zone=win; rate_limit_headers off; empty_gif; }
--- request eval
['GET /', 'GET /', 'GET /']
--- error_code eval
[200, 200, 429]
--- response_headers eval
["X-RateLimit-Limit: \nRateLimit: \nRateLimit-Policy: ", "X-RateLimit-Limit: ", "X-RateLimit-Limit: \nRateLimit: \nCache-Control: no-store"]


=== TEST 5: headers stay on errors of others and on upstream answers
--- http_config
    rate_limit_zone one zone=api:1m rate=100r/m burst=9;
--- config
    rate_limit zone=api nodelay;
    location /up { proxy_pass http://127.0.0.1:$TEST_NGINX_SERVER_PORT/gif; }
    location /gif { rate_limit zone=api nodelay when=0; empty_gif; }
    location /none { root /no/such; }
    location /refused { proxy_pass http://127.0.0.1:1; }
--- request eval
['GET /up', 'GET /none', 'GET /refused']
--- error_code eval
[200, 404, 502]
--- response_headers eval
[map { "X-RateLimit-Remaining: $_\nRetry-After: " } 9, 8, 7]


=== TEST 6: the words of the limited location hold on its error page
--- config
    location / {
        rate_limit zone=win;
        rate_limit_headers ietf;
        error_page 429 /page;
        empty_gif;
    }
    location = /page { internal; rate_limit_headers on; return 429 "busy"; }
    location /off { rate_limit zone=win; rate_limit_headers off; error_page 429 @page; empty_gif; }
    location @page { return 429 "busy"; }
--- request eval
['GET /', 'GET /', 'GET /', 'GET /off']
--- error_code eval
[200, 200, 429, 429]
--- response_headers eval
['X-RateLimit-Limit: ', 'X-RateLimit-Limit: ', "RateLimit-Policy: \"win\";q=2;w=3600\nX-RateLimit-Limit: ", "RateLimit-Policy: \nX-RateLimit-Limit: "]


=== TEST 7: behind another gateway, ours take the place of its headers
--- http_config
    rate_limit_zone outer zone=outer:1m rate=100r/m burst=9;
    rate_limit_zone inner zone=inner:1m rate=77r/m burst=5;
--- config
    location /outer { rate_limit zone=outer nodelay; proxy_pass http://127.0.0.1:$TEST_NGINX_SERVER_PORT/inner; }
    location /inner { rate_limit zone=inner nodelay; empty_gif; }
--- request
GET /outer
--- response_headers
X-RateLimit-Limit: 100
X-RateLimit-Remaining: 9
--- raw_response_headers_unlike: (?i)RateLimit-Limit: 77
