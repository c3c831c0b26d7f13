# rate_limit: what is admitted, delayed and refused, and what a request is charged for.
use strict;
use warnings;
use lib 't/lib';
use Sluice;

no_root_location();
plan 'no_plan';
run_tests();

__DATA__

=== TEST 1: five lines limit
--- http_config
    rate_limit_zone $binary_remote_addr zone=per_ip:10m rate=100r/m burst=20;
--- config
    location / { rate_limit zone=per_ip nodelay; empty_gif; }
--- pipelined_requests eval
[map { 'GET /' } 1 .. 23]
--- error_code eval
[(200) x 21, 429, 429]
--- no_error_log
[alert]
[crit]


=== TEST 2: an empty key is not limited, other keys are apart
--- http_config
    rate_limit_zone $arg_k zone=k:1m rate=1r/m;
--- config
    location / { rate_limit zone=k nodelay; empty_gif; }
    add_header S $rate_limit_status always;
--- request eval
['GET /', 'GET /', 'GET /?k=a', 'GET /?k=a', 'GET /?k=b', 'GET /?k=b']
--- error_code eval
[200, 200, 200, 429, 200, 429]
--- response_headers eval
['S: BYPASSED', 'S: BYPASSED', 'S: PASSED', 'S: REJECTED', 'S: PASSED', 'S: REJECTED']


=== TEST 3: burst of the location before that of the zone
--- http_config
    rate_limit_zone one zone=a:1m rate=1r/m burst=1;
    rate_limit_zone one zone=b:1m rate=1r/m burst=1;
--- config
    location /a { rate_limit zone=a nodelay; empty_gif; }
    location /b { rate_limit zone=b nodelay burst=3; empty_gif; }
--- request eval
['GET /a', 'GET /a', 'GET /a', map { 'GET /b' } 1 .. 5]
--- error_code eval
[200, 200, 429, 200, 200, 200, 200, 429]


=== TEST 4: sliding_window, alone and with a burst
--- http_config
    rate_limit_zone one zone=a:1m rate=3r/m algorithm=sliding_window;
    rate_limit_zone one zone=b:1m rate=3r/m burst=1 algorithm=sliding_window;
--- config
    location /a { rate_limit zone=a; empty_gif; }
    location /b { rate_limit zone=b; empty_gif; }
--- request eval
[(map { 'GET /a' } 1 .. 5), map { 'GET /b' } 1 .. 4]
--- error_code eval
[200, 200, 200, 429, 429, 200, 200, 429, 429]


=== TEST 5: fixed_window follows the calendar
--- http_config
    rate_limit_zone one zone=a:1m rate=3r/1000d algorithm=fixed_window;
--- config
    location /a { rate_limit zone=a; rate_limit_reset epoch; empty_gif; }
--- request eval
[map { 'GET /a' } 1 .. 4]
--- error_code eval
[200, 200, 200, 429]
--- response_headers eval
my $end = (int(time / 86_400_000) + 1) * 86_400_000;
[map { "X-RateLimit-Limit: 3\nX-RateLimit-Remaining: $_\nX-RateLimit-Reset: $end" } 2, 1, 0, 0]


=== TEST 6: cost: 0 peeks, more than one, more than ever fits, not a number
--- http_config
    rate_limit_zone one zone=a:1m rate=1r/m burst=9;
--- config
    location / { rate_limit zone=a nodelay cost=$arg_c; empty_gif; }
--- request eval
['GET /?c=0', 'GET /?c=4', 'GET /?c=0', 'GET /?c=7', 'GET /?c=11', 'GET /?c=99999999999999999999', 'GET /?c=x', 'GET /?c=-1', 'GET /?c=4', 'GET /?c=0', 'GET /?c=1']
--- error_code eval
[200, 200, 200, 429, 429, 200, 200, 200, 429, 200, 200]
--- response_headers eval
[map { "X-RateLimit-Remaining: $_" } 10, 6, 6, 6, 6, 5, 4, 3, 3, 3, 2]


=== TEST 7: when: empty and 0 skip the limit
--- http_config
    rate_limit_zone one zone=a:1m rate=1r/m;
--- config
    location / { rate_limit zone=a nodelay when=$arg_w; empty_gif; }
    add_header S $rate_limit_status always;
--- request eval
['GET /', 'GET /?w=0', 'GET /?w=1', 'GET /?w=00', 'GET /?w=']
--- error_code eval
[200, 200, 200, 429, 200]
--- response_headers eval
['S: BYPASSED', 'S: BYPASSED', 'S: PASSED', 'S: REJECTED', 'S: BYPASSED']


=== TEST 8: several limits, all or nothing; the one that refuses speaks
--- http_config
    rate_limit_zone one    zone=wide:1m   rate=100r/m burst=99;
    rate_limit_zone $arg_k zone=narrow:1m rate=1r/m;
--- config
    location /both { rate_limit zone=wide nodelay; rate_limit zone=narrow nodelay; empty_gif; }
    location /peek { rate_limit zone=wide nodelay cost=0; empty_gif; }
    add_header Z $rate_limit_zone always;
--- request eval
['GET /both?k=a', 'GET /both?k=a', 'GET /both?k=a', 'GET /peek', 'GET /both?k=b', 'GET /peek']
--- error_code eval
[200, 429, 429, 200, 200, 200]
--- response_headers eval
["Z: narrow\nX-RateLimit-Remaining: 0\nX-RateLimit-Limit: 1", "Z: narrow", "Z: narrow", "Z: wide\nX-RateLimit-Remaining: 99\nX-RateLimit-Limit: 100", 'Z: narrow', "Z: wide\nX-RateLimit-Remaining: 98"]


=== TEST 9: inherited as a whole, or not at all
--- http_config
    rate_limit_zone one zone=outer:1m rate=1r/m;
    rate_limit_zone one zone=inner:1m rate=1r/m burst=1;
    rate_limit zone=outer nodelay;
--- config
    location /a { empty_gif; }
    location /b { rate_limit zone=inner nodelay; empty_gif; }
    location /c { location /c/d { empty_gif; } }
--- request eval
['GET /a', 'GET /a', 'GET /b', 'GET /b', 'GET /b', 'GET /c/d']
--- error_code eval
[200, 429, 200, 200, 429, 429]


=== TEST 10: a variable rate, and a bad one
--- http_config
    map $arg_t $rate { gold 3r/m; none ''; bad 10x; zero 0r/s; fine 5000011r/s; default 1r/m; }
    rate_limit_zone $arg_t zone=a:1m rate=$rate;
--- config
    location / { rate_limit zone=a nodelay burst=0; empty_gif; }
    add_header S $rate_limit_status always;
--- request eval
['GET /?t=gold', 'GET /?t=gold', 'GET /?t=x', 'GET /?t=x', 'GET /?t=bad', 'GET /?t=bad', 'GET /?t=none', 'GET /?t=zero', 'GET /?t=fine']
--- error_code eval
[200, 429, 200, 429, 200, 200, 200, 200, 200]
--- response_headers eval
["S: PASSED\nX-RateLimit-Limit: 3", 'S: REJECTED', "S: PASSED\nX-RateLimit-Limit: 1", 'S: REJECTED', ("S: BYPASSED\nX-RateLimit-Limit: ") x 5]


=== TEST 11: an internal redirect is charged once
--- http_config
    rate_limit_zone one zone=a:1m rate=1r/m burst=9;
--- config
    rate_limit zone=a nodelay;
    location = /a { try_files /no/such /b; }
    location = /b { empty_gif; }
    location = /c { error_page 404 = @d; root /no/such; }
    location @d { empty_gif; }
    location = /e/ { index none.html other.gif; }
    location = /e/other.gif { empty_gif; }
    location = /r { rewrite ^ /b last; }
--- request eval
['GET /a', 'GET /b', 'GET /c', 'GET /b', 'GET /r', 'GET /b']
--- error_code eval
[200, 200, 200, 200, 200, 200]
--- response_headers eval
[map { "X-RateLimit-Remaining: $_" } 9, 8, 7, 6, 5, 4]


=== TEST 12: subrequests are not charged: auth_request, mirror
--- http_config
    rate_limit_zone one zone=a:1m rate=1r/m burst=9;
--- config
    rate_limit zone=a nodelay;
    location = /a { auth_request /auth; mirror /mirror; empty_gif; }
    location = /auth { internal; empty_gif; }
    location = /mirror { internal; empty_gif; }
    location = /b { empty_gif; }
--- request eval
['GET /a', 'GET /a', 'GET /b']
--- error_code eval
[200, 200, 200]
--- response_headers eval
[map { "X-RateLimit-Remaining: $_" } 9, 8, 7]


=== TEST 13: HEAD and POST are refused as GET is, and the connection stays
--- http_config
    rate_limit_zone one zone=a:1m rate=1r/m;
--- config
    location / { rate_limit zone=a nodelay; empty_gif; }
--- pipelined_requests eval
['GET /', 'GET /', "POST /\n0123456789", 'GET /', 'HEAD /']
--- error_code eval
[200, 429, 429, 429, 429]
--- response_headers eval
['Connection: keep-alive', 'Connection: keep-alive', 'Connection: keep-alive', 'Connection: keep-alive', 'Connection: close']


=== TEST 14: a body that is larger than the buffers is thrown away
--- http_config
    rate_limit_zone one zone=a:1m rate=1r/m;
--- config
    client_body_buffer_size 1k;
    location / { rate_limit zone=a nodelay; empty_gif; }
--- pipelined_requests eval
['GET /', "POST /\n" . 'x' x 300_000, 'GET /']
--- error_code eval
[200, 429, 429]


=== TEST 15: more than one limit of one zone by different locations is one count
--- http_config
    rate_limit_zone one zone=a:1m rate=1r/m burst=2;
--- config
    location /a { rate_limit zone=a nodelay; empty_gif; }
    location /b { rate_limit zone=a nodelay burst=1; empty_gif; }
--- request eval
['GET /a', 'GET /a', 'GET /b', 'GET /a', 'GET /a']
--- error_code eval
[200, 200, 429, 200, 429]


=== TEST 16: keys of any bytes and length
--- http_config
    rate_limit_zone $http_k zone=a:1m rate=1r/m;
--- config
    large_client_header_buffers 4 80k;
    location / { rate_limit zone=a nodelay; empty_gif; }
--- more_headers eval
["K: \xff\xfe{}*3\$", "K: \xff\xfe{}*3\$", 'K: ' . 'x' x 65_536, 'K: ' . 'x' x 65_536, 'K: ' . 'x' x 65_535]
--- request eval
[map { 'GET /' } 1 .. 5]
--- error_code eval
[200, 429, 200, 429, 200]
