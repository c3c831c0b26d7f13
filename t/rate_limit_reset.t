# rate_limit_reset: Unix seconds, or seconds from now; never too early.
use strict;
use warnings;
use lib 't/lib';
use Sluice;

no_root_location();
plan 'no_plan';
run_tests();

__DATA__

=== TEST 1: epoch is the default
--- http_config
    rate_limit_zone one zone=a:1m rate=1r/100d;
--- config
    location / { rate_limit zone=a nodelay; empty_gif; }
    location /delta { rate_limit zone=a nodelay; rate_limit_reset delta; empty_gif; }
--- request eval
['GET /', 'GET /delta']
--- error_code eval
[200, 429]
--- response_headers_like eval
my $near = int((time + 8_640_000) / 100);
["X-RateLimit-Reset: (?:$near|@{[$near + 1]})\\d\\d", "X-RateLimit-Reset: (?:8640000|863999\\d)\nRetry-After: (?:8640000|863999\\d)"]


=== TEST 2: inherited, and overridden
--- http_config
    rate_limit_zone one zone=a:1m rate=1r/10s burst=9;
    rate_limit zone=a nodelay;
    rate_limit_reset delta;
--- config
    location / { empty_gif; }
    location /epoch { rate_limit_reset epoch; empty_gif; }
--- request eval
['GET /', 'GET /epoch']
--- response_headers_like eval
['X-RateLimit-Reset: 10', 'X-RateLimit-Reset: \d{10}']
