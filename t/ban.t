# ban: what counts, for how long, and for whom; $ban_status and $ban_zone.
use strict;
use warnings;
use lib 't/lib';
use Sluice;

no_root_location();
plan 'no_plan';
run_tests();

__DATA__

=== TEST 1: a status that counts, the refusal and its body; refusals do not count
--- http_config
    ban_zone one zone=a:1m;
    ban zone=a status=401,500-502 count=3 window=60s duration=100s;
--- config
    location / { empty_gif; }
    location /401 { return 401; }
    location /501 { error_page 599 = @no; return 501; }
    location /404 { return 404; }
--- request eval
['GET /404', 'GET /401', 'GET /404', 'GET /501', 'GET /', 'GET /401', 'GET /', 'GET /']
--- error_code eval
[404, 401, 404, 501, 200, 401, 403, 403]
--- response_body_like eval
[('.*') x 6, ('^\{"success":false,"error":\{"code":"BANNED","message":"Access is blocked for now\. Please try again later\.","retryAfter":100}}$') x 2]
--- response_headers eval
[('Retry-After: ') x 6, ("Retry-After: 100\nCache-Control: no-store") x 2]


=== TEST 2: by rate-limit refusals; a banned request is not charged
--- http_config
    ban_zone one zone=a:1m;
    rate_limit_zone one zone=r:1m rate=1r/100s;
--- config
    location / { rate_limit zone=r nodelay; ban zone=a on=rate_limited count=2 window=60s duration=60s; empty_gif; }
    location /free { return 200 "$ban_status."; }
--- request eval
['GET /', 'GET /', 'GET /', 'GET /', 'GET /free']
--- error_code eval
[200, 429, 429, 403, 200]
--- response_body_like eval
['GIF', 'RATE_LIMIT_EXCEEDED', 'RATE_LIMIT_EXCEEDED', 'BANNED', '^\.$']
--- response_headers_like eval
[('X-RateLimit-Limit: 1') x 3, '', '']


=== TEST 3: dry runs count and log only; several zones; variables
--- http_config
    ban_zone one zone=a:1m;
    ban_zone two zone=b:1m;
    log_format b "[$ban_status $ban_zone]";
--- config
    error_log logs/error.log info;
    location / {
        ban zone=a status=404 count=1 window=60s duration=60s dry_run;
        ban zone=b status=404 count=2 window=60s duration=60s;
        add_header B "$ban_status,$ban_zone" always;
    }
--- request eval
['GET /x', 'GET /x', 'GET /x']
--- error_code eval
[404, 404, 403]
--- response_headers eval
['B: PASSED,', 'B: BANNED_DRY_RUN,a', 'B: BANNED,b']


=== TEST 4: inherited as a whole; a ban without anything to count refuses those banned elsewhere
--- config
    location / { empty_gif; }
    location /login { ban zone=a status=403 count=1 window=60s duration=60s; return 403; }
    location /other { ban zone=a status=404 count=9 window=60s duration=60s; }
    location /free { ban zone=b; empty_gif; }
--- http_config eval
'ban_zone one zone=a:1m; ban_zone x zone=b:1m; ban zone=a;'
--- request eval
['GET /', 'GET /login', 'GET /', 'GET /other', 'GET /free']
--- error_code eval
[200, 403, 403, 403, 200]


=== TEST 5: subrequests and internal redirects count once; error_page wins and keeps Retry-After
--- http_config
    ban_zone one zone=a:1m;
    ban zone=a status=403,404 count=2 window=60s duration=60s;
--- config
    location / { error_page 403 /page; auth_request /auth; }
    location = /auth { return 204; }
    location = /page { internal; return 403 "page $ban_status"; }
    location = /no { auth_request /deny; }
    location = /deny { return 403; }
    location = /turned { error_page 404 =200 /fine; return 404; }
    location = /fine { return 200 fine; }
--- request eval
['GET /turned', 'GET /turned', 'GET /no', 'GET /x', 'GET /y']
--- error_code eval
[200, 200, 403, 404, 403]
--- response_body_like eval
['fine', 'fine', '403 Forbidden', '404', 'page BANNED']
--- response_headers eval
[('Retry-After: ') x 4, 'Retry-After: 60']


=== TEST 6: different rules do not mix what they count
--- http_config
    ban_zone one zone=a:1m;
--- config
    location /a { ban zone=a status=404 count=2 window=60s duration=60s; return 404; }
    location /b { ban zone=a status=404 count=4 window=60s duration=60s; return 404; }
--- request eval
['GET /b', 'GET /b', 'GET /b', 'GET /a', 'GET /b', 'GET /a']
--- error_code eval
[404, 404, 404, 404, 404, 404]


=== TEST 7: a connection that is closed without an answer counts
--- http_config
    ban_zone one zone=a:1m;
    ban zone=a status=444 count=2 window=60s duration=60s;
--- config
    location /wp-admin { return 444; }
    location / { empty_gif; }
    location /try { proxy_pass http://127.0.0.1:$TEST_NGINX_SERVER_PORT/wp-admin; }
    location /sub { ban zone=a; return 200; }
--- request eval
['GET /try', 'GET /try', 'GET /']
--- error_code eval
[502, 502, 403]


=== TEST 8: wrong: nothing to count
--- http_config
    ban_zone one zone=a:1m;
--- config
    ban zone=a count=3 window=60s duration=60s;
--- must_die
--- error_log
"ban" directive must have "status" or "on" parameter in


=== TEST 9: wrong: no count, window, duration
--- http_config
    ban_zone one zone=a:1m;
--- config
    ban zone=a status=401 window=60s duration=60s;
--- must_die
--- error_log
"ban" directive must have "count" parameter in


=== TEST 10: wrong: no zone
--- config
    ban status=401 count=3 window=60s duration=60s;
--- must_die
--- error_log
"ban" directive must have "zone" parameter in


=== TEST 11: wrong: unknown zone, with the place
--- config
    ban zone=b status=401 count=3 window=60s duration=60s;
--- must_die
--- error_log eval
qr/"ban" directive names unknown zone "b" in .*nginx\.conf:\d+/


=== TEST 12: wrong: status
--- http_config
    ban_zone one zone=a:1m;
--- config
    ban zone=a status=4xx count=3 window=60s duration=60s;
--- must_die
--- error_log
"ban" directive has invalid value "4xx" of "status", codes and ranges from 200 to 599, such as 401,403,500-599 expected in


=== TEST 13: wrong: on
--- http_config
    ban_zone one zone=a:1m;
--- config
    ban zone=a on=monday count=3 window=60s duration=60s;
--- must_die
--- error_log
"ban" directive has invalid value "monday" of "on", "rate_limited" expected in


=== TEST 14: wrong: count
--- http_config
    ban_zone one zone=a:1m;
--- config
    ban zone=a status=401 count=0 window=60s duration=60s;
--- must_die
--- error_log
"ban" directive has invalid value "0" of "count", a number from 1 to 1000000 expected in


=== TEST 15: wrong: window
--- http_config
    ban_zone one zone=a:1m;
--- config
    ban zone=a status=401 count=1 window=0 duration=60s;
--- must_die
--- error_log
"ban" directive has invalid value "0" of "window", a time from 1ms to 366d expected in


=== TEST 16: wrong: max_duration
--- http_config
    ban_zone one zone=a:1m;
--- config
    ban zone=a status=401 count=1 window=1s duration=60s max_duration=59s;
--- must_die
--- error_log
"ban" directive has "max_duration" shorter than "duration" in


=== TEST 17: wrong: twice
--- http_config
    ban_zone one zone=a:1m;
--- config
    ban zone=a;
    ban zone=a status=401 count=1 window=1s duration=60s;
--- must_die
--- error_log
"ban" directive has duplicate zone "a" in
