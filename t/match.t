# match: each line decides about a real answer, and mistakes are refused with their place.
use strict;
use warnings;
use lib 't/lib';
use Sluice;

plan 'no_plan';

# `document` and `answer` make the backend; the check is mandatory, so that its first verdict is always logged.
add_block_preprocessor(sub {
    my $block = shift;
    if (defined(my $lines = $block->tests)) {
        my $extra = $block->extra || '';
        $block->set_value(http_config => "match m {\n$lines\n}\n$extra\nupstream u { server 127.0.0.1:\$TEST_NGINX_SERVER_PORT; health_check uri=/health match=m mandatory interval=10s; }");
        my $answer = $block->answer || "return 200 '" . ($block->document || '{}') . "';";
        $block->set_value(config => "location /health { default_type application/json; $answer }\nlocation /t { return 200 ok; }\nlocation /u { proxy_pass http://u; }");
        $block->set_value(request       => "GET /t\n");
        $block->set_value(response_body => 'ok');
        $block->set_value(wait          => '0.3');
        my $verdict = $block->verdict;
        chomp $verdict;
        $block->set_value(error_log => $verdict eq 'healthy' ? 'is healthy, upstream "u"' : "is unhealthy: $verdict");
        $block->set_value(no_error_log => $verdict eq 'healthy' ? 'is unhealthy' : 'is healthy');
    } elsif (defined(my $refused = $block->refused)) {
        $block->set_value(http_config => $refused);
        $block->set_value(config      => '');
        $block->set_value(must_die    => '');
    }
});

run_tests();

__DATA__

=== TEST 1: the document of the gateway
--- tests
status 200;
header Content-Type ~ "^application/json";
json $.status = healthy;
json $.checks.database.status = ok;
json $.checks.*.status != fail;
--- document: {"status":"healthy","checks":{"database":{"status":"ok"},"redis":{"status":"ok"}}}
--- verdict: healthy

=== TEST 2: one bad part of it
--- tests
status 200;
json $.status = healthy;
json $.checks.*.status != fail;
--- document: {"status":"healthy","checks":{"database":{"status":"ok"},"redis":{"status":"fail"}}}
--- verdict: json $.checks.*.status: wanted != "fail", got "fail"

=== TEST 3: status in ranges
--- tests
status 200-299 404;
--- answer: return 404 "gone";
--- verdict: healthy

=== TEST 4: status not
--- tests
status ! 500-599;
--- answer: return 503 "gone";
--- verdict: status

=== TEST 5: header present
--- tests
header X-Ready;
--- answer: add_header X-Ready 1; return 200 "";
--- verdict: healthy

=== TEST 6: header absent
--- tests
header ! X-Ready;
--- answer: add_header X-Ready 1; return 200 "";
--- verdict: header X-Ready: wanted

=== TEST 7: body
--- tests
body ~ "we(lc)ome";
body !~ maintenance;
--- document: welcome
--- verdict: healthy

=== TEST 8: body not
--- tests
body !~ "main(tenance)";
--- document: under maintenance
--- verdict: body: wanted

=== TEST 9: groups
--- tests
any {
    json $.status = healthy;
    all {
        json $.status = degraded;
        not { json $.load > 0.9; }
    }
}
--- document: {"status":"degraded","load":0.5}
--- verdict: healthy

=== TEST 10: groups that do not hold
--- tests
any {
    json $.status = healthy;
    all {
        json $.status = degraded;
        not { json $.load > 0.9; }
    }
}
--- document: {"status":"degraded","load":0.95}
--- verdict

=== TEST 11: include
--- tests
include $TEST_NGINX_SERVROOT/html/lines.conf;
--- user_files
>>> lines.conf
json $.status = healthy;
any { include extra.conf; }
>>> ../conf/extra.conf
json $.a = 1;
--- document: {"status":"healthy","a":2}
--- verdict: json $.a

=== TEST 12: garbage where a document should be
--- tests
json $.status = healthy;
--- document: <html>
--- verdict: json

=== TEST 13: a line of match outside of it
--- refused
    status 200;
--- error_log eval
qr/\[emerg\] .*"status" directive is not allowed here in \S+nginx\.conf:\d+/

=== TEST 14: a group outside of match
--- refused
    any { }
--- error_log eval
qr/\[emerg\] .*"any" directive is not allowed here in \S+nginx\.conf:\d+/

=== TEST 15: an unknown line
--- refused
    match m { statuses 200; }
--- error_log eval
qr/\[emerg\] .*unknown directive "statuses" in \S+nginx\.conf:\d+/

=== TEST 16: a directive of elsewhere
--- refused
    match m { listen 80; }
--- error_log eval
qr/\[emerg\] .*"listen" directive is not allowed here in \S+nginx\.conf:\d+/

=== TEST 17: a match in a match
--- refused
    match m { match n { status 200; } }
--- error_log eval
qr/\[emerg\] .*"match" directive is not allowed here in \S+nginx\.conf:\d+/

=== TEST 18: the same name twice
--- refused
    match m { status 200; }
    match m { status 200; }
--- error_log eval
qr/\[emerg\] .*"match" directive has duplicate name "m" in \S+nginx\.conf:\d+/

=== TEST 19: nothing in it
--- refused
    match m { }
--- error_log eval
qr/\[emerg\] .*no tests in match "m" in \S+nginx\.conf:\d+/

=== TEST 20: an empty group
--- refused
    match m { status 200; any { } }
--- error_log eval
qr/\[emerg\] .*empty group "any" in match "m" in \S+nginx\.conf:\d+/

=== TEST 21: degraded in a group
--- refused
    match m { any { degraded { status 200; } } }
--- error_log eval
qr/\[emerg\] .*"degraded" cannot stand inside another group in match "m" in \S+nginx\.conf:\d+/

=== TEST 22: a bad status
--- refused
    match m { status 2xx; }
--- error_log eval
qr/\[emerg\] .*invalid status "2xx".* in \S+nginx\.conf:\d+/

=== TEST 23: a bad JSON path
--- refused
    match m { json $.a[ = 1; }
--- error_log eval
qr/\[emerg\] .*invalid json path "\$\.a\[".* in \S+nginx\.conf:\d+/

=== TEST 24: an operator of another language
--- refused
    match m { json $.a == 1; }
--- error_log eval
qr/\[emerg\] .*"==" .*write "=".* in \S+nginx\.conf:\d+/

=== TEST 25: a bad regex
--- refused
    match m { body ~ "(unclosed"; }
--- error_log eval
qr/\[emerg\] .*invalid pattern "\(unclosed" in "body".* in \S+nginx\.conf:\d+/

=== TEST 26: a bad header
--- refused
    match m { header "A B" = c; }
--- error_log eval
qr/\[emerg\] .*invalid header name "A B".* in \S+nginx\.conf:\d+/

=== TEST 27: require in a group
--- refused
    match m { any { require $host; } }
--- error_log eval
qr/\[emerg\] .*"require" cannot stand inside a group in match "m" in \S+nginx\.conf:\d+/

=== TEST 28: no end: the line after it is the first that cannot be
--- refused
    match m { status 200;
--- error_log eval
qr/\[emerg\] .*directive is not allowed here in \S+nginx\.conf:\d+/

=== TEST 29: a JSON comparison of another type
--- refused
    match m { json $.a < "x"; }
--- error_log eval
qr/\[emerg\] .*json operator "<" needs a number, got "x" at column 7 in \S+nginx\.conf:\d+/
