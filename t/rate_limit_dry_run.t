# dry_run and rate_limit_dry_run: counted and logged, never enforced.
use strict;
use warnings;
use lib 't/lib';
use Sluice;

no_root_location();
plan 'no_plan';
run_tests();

__DATA__

=== TEST 1: the whole location
--- http_config
    rate_limit_zone one zone=a:1m rate=1r/m burst=1;
--- config
    add_header S $rate_limit_status always;
    location / { rate_limit zone=a; rate_limit_dry_run on; empty_gif; }
    location /real { rate_limit zone=a nodelay; empty_gif; }
--- request eval
['GET /', 'GET /', 'GET /', 'GET /real']
--- error_code eval
[200, 200, 200, 429]
--- response_headers eval
["S: PASSED\nX-RateLimit-Limit: ", 'S: DELAYED_DRY_RUN', "S: REJECTED_DRY_RUN\nRetry-After: \nX-RateLimit-Limit: ", 'S: REJECTED']


=== TEST 2: one limit of two
--- http_config
    rate_limit_zone one zone=a:1m rate=1r/m;
    rate_limit_zone one zone=b:1m rate=1r/m burst=2;
--- config
    add_header S $rate_limit_status always;
    add_header Z $rate_limit_zone always;
    location / { rate_limit zone=a dry_run; rate_limit zone=b nodelay; empty_gif; }
--- request eval
[map { 'GET /' } 1 .. 4]
--- error_code eval
[200, 200, 200, 429]
--- response_headers eval
["S: PASSED\nZ: b\nX-RateLimit-Remaining: 2", "S: REJECTED_DRY_RUN\nZ: b\nX-RateLimit-Remaining: 1", 'S: REJECTED_DRY_RUN', "S: REJECTED\nZ: b"]


=== TEST 3: off inside of on
--- http_config
    rate_limit_zone one zone=a:1m rate=1r/m;
    rate_limit zone=a nodelay;
    rate_limit_dry_run on;
--- config
    location / { empty_gif; }
    location /off { rate_limit_dry_run off; empty_gif; }
--- request eval
['GET /', 'GET /', 'GET /off']
--- error_code eval
[200, 200, 429]


=== TEST 4: with Redis
--- http_config
    redis main { server 127.0.0.1:$TEST_NGINX_REDIS_PORT; key_prefix $TEST_NGINX_KEY_PREFIX; timeout 1s; }
    rate_limit_zone one zone=a:1m rate=1r/m redis=main;
    rate_limit_zone one zone=b:1m rate=1r/m burst=1 redis=main;
--- config
    add_header S $rate_limit_status always;
    location / { rate_limit zone=a dry_run nodelay; rate_limit zone=b nodelay; empty_gif; }
--- request eval
[map { 'GET /' } 1 .. 3]
--- error_code eval
[200, 200, 429]
--- response_headers eval
['S: PASSED', 'S: REJECTED_DRY_RUN', 'S: REJECTED']
