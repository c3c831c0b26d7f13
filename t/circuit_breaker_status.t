# circuit_breaker_status: the status of the breaker's refusals, and what nginx -t says to mistakes.
use strict;
use warnings;
use lib 't/lib';
use Sluice;

plan 'no_plan';

add_block_preprocessor(sub {
    my $block = shift;
    return if defined $block->http_config;
    $block->set_value(http_config => <<'CONF');
upstream u { server 127.0.0.1:$TEST_NGINX_RAND_PORT_1 max_fails=0; circuit_breaker failures=2 open=30s; }
map $uri $u { default u; }
server { listen 127.0.0.1:$TEST_NGINX_RAND_PORT_1; location / { return 502; } }
CONF
    $block->set_value(request => [ 'GET /t', 'GET /t', 'GET /t' ]) if !defined $block->must_die;
});

run_tests();

__DATA__

=== TEST 1: 503 when nothing is said
--- config
location /t { proxy_pass http://u; }
--- error_code eval
[502, 502, 503]
--- response_headers_like eval
["", "", "Retry-After: (30|29)"]



=== TEST 2: another
--- config
location /t { proxy_pass http://u; circuit_breaker_status 529; }
--- error_code eval
[502, 502, 529]
--- response_headers_like eval
["", "", "Retry-After: (30|29)\nContent-Type: application/json"]



=== TEST 3: inherited, and for an upstream in a variable
--- config
circuit_breaker_status 500;
location /t { proxy_pass http://$u; }
--- error_code eval
[502, 502, 500]
--- response_headers_like eval
["", "", "Retry-After: (30|29)\nContent-Type: application/json"]



=== TEST 4: the nearest level counts
--- config
circuit_breaker_status 500;
location /t { proxy_pass http://u; circuit_breaker_status 504; }
--- error_code eval
[502, 502, 504]



=== TEST 5: an error_page for that status wins
--- config
location /t { proxy_pass http://u; circuit_breaker_status 529; error_page 529 /busy; }
location /busy { return 200 busy; }
--- error_code eval
[502, 502, 529]
--- response_body_like eval
["502", "502", "^busy\$"]



=== TEST 6: with reject_format html the core's page
--- config
location /t { proxy_pass http://$u; reject_format html; }
--- error_code eval
[502, 502, 503]
--- response_body_like eval
["502", "502", "<title>503 Service Temporarily Unavailable</title>"]



=== TEST 7: no refusal
--- config
circuit_breaker_status 200;
--- must_die
--- error_log
"circuit_breaker_status" directive has invalid value "200" of "circuit_breaker_status", a status from 400 to 599 expected in



=== TEST 8: no number
--- config
circuit_breaker_status busy;
--- must_die
--- error_log
"circuit_breaker_status" directive has invalid value "busy" of "circuit_breaker_status", a status from 400 to 599 expected in



=== TEST 9: twice
--- config
circuit_breaker_status 503;
circuit_breaker_status 503;
--- must_die
--- error_log
"circuit_breaker_status" directive is duplicate in



=== TEST 10: not in an upstream
--- http_config
upstream u { server 127.0.0.1:1; circuit_breaker_status 503; }
--- config
--- must_die
--- error_log
"circuit_breaker_status" directive is not allowed here in
