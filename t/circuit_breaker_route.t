# circuit_breaker NAME in a location: a breaker of that route, wherever it leads; beside that of the upstream.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Load;
use Sluice::Run;
use Test::More;
use Time::HiRes qw(sleep time);

my ($port, $back, $closed) = (free_port(), free_port(), free_port());
my $info = 'error_log logs/error.log info;';
my $rule = 'failures=3 window=10s open=1s';

sub http {
    my $rule = shift;
    return <<"CONF";
upstream plain { server 127.0.0.1:$back max_fails=0; }
upstream guarded { zone guarded 64k; server 127.0.0.1:$back max_fails=0; circuit_breaker failures=5 window=10s open=20s; }
upstream rescue { server 127.0.0.1:$closed max_fails=0; server 127.0.0.1:$back max_fails=0; }
map \$uri \$group { default plain; }
map \$uri \$address { default 127.0.0.1:$back; }
proxy_cache_path cache keys_zone=c:1m;
log_format state '\$uri \$circuit_breaker_state,\$circuit_breaker_retry_after';
server {
    listen 127.0.0.1:$port;
    access_log logs/state.log state;
    client_max_body_size 9m;
    location /named { circuit_breaker named $rule; proxy_pass http://plain; }
    location /bare { circuit_breaker bare $rule; proxy_pass http://127.0.0.1:$back; }
    location /group { circuit_breaker group $rule; proxy_pass http://\$group; }
    location /address { circuit_breaker address $rule; proxy_pass http://\$address; }
    location /shared/a { circuit_breaker shared $rule; proxy_pass http://plain; }
    location /shared/b { circuit_breaker shared $rule; proxy_pass http://127.0.0.1:$back; }
    location /outer { circuit_breaker outer $rule; proxy_pass http://plain;
        location /outer/inner { proxy_pass http://plain; }
        location /outer/own { circuit_breaker own failures=9; proxy_pass http://plain; } }
    location /both/a { circuit_breaker both $rule; proxy_pass http://guarded; }
    location /both/b { proxy_pass http://guarded; }
    location /rescue { circuit_breaker rescue $rule; proxy_pass http://rescue; }
    location /fails { circuit_breaker fails $rule; circuit_breaker_failure http_404; proxy_pass http://plain;
        location /fails/inner { proxy_pass http://plain; } }
    location /cached { circuit_breaker cached $rule; proxy_pass http://plain; proxy_cache c; proxy_cache_key \$uri; proxy_cache_valid 200 1s; proxy_cache_use_stale error; }
    location /cachedgroup { circuit_breaker cachedgroup $rule; proxy_pass http://\$group; proxy_cache c; proxy_cache_key \$uri; proxy_cache_valid 200 1s; }
    location /safe { circuit_breaker safe $rule half_open_via=safe; proxy_pass http://plain; }
    location /dry { circuit_breaker dry $rule dry_run; proxy_pass http://plain; }
    location /slow { circuit_breaker slow failures=0 slow_call=1ms slow_rate=50% min_calls=2 open=20s; proxy_pass http://plain; }
    location /page { circuit_breaker page $rule; circuit_breaker_status 529; error_page 529 = \@away; proxy_pass http://plain; }
    location \@away { return 200 away; }
    location /return { circuit_breaker return $rule; return 502; }
    location /denied { circuit_breaker denied $rule; deny all; proxy_pass http://plain; }
    location /file { circuit_breaker file $rule; root html; }
    location /redirected { circuit_breaker redirected $rule; proxy_pass http://plain; error_page 502 /named/again?s=200; proxy_intercept_errors on; }
    location /sub { auth_request /failing; root html; }
    location /failing { circuit_breaker named $rule; proxy_pass http://plain/?s=502; }
}
server {
    listen 127.0.0.1:$back;
    client_max_body_size 9m;
    access_log logs/backend.log;
    location / {
        if (\$arg_s = 404) { return 404; }
        if (\$arg_s = 502) { return 502; }
        if (\$arg_s = slow) { set \$limit_rate 400; return 200 "@{[ 'x' x 900 ]}"; }
        return 200 backend;
    }
}
CONF
}
my $gateway = gateway(http => http($rule), workers => 2, main => $info);

sub hits {
    my $count = sub { open my $log, '<', "$gateway->{dir}/logs/backend.log" or return 0; scalar grep {1} <$log> };
    my ($hits, $same) = ($count->(), 0);
    while ($same < 3) {
        select undef, undef, undef, 0.02;
        my $now = $count->();
        $same = $now == $hits ? $same + 1 : 0;
        $hits = $now;
    }
    return $hits;
}
sub codes { my ($path, $count, @more) = @_; return [ map { status_of(get($port, $path, @more)) } 1 .. $count ] }

# The walk, wherever the route leads: a group, an address, a group or an address in a variable.
for my $path ('/named', '/bare', '/group', '/address', '/shared/a') {
    (my $name = $path) =~ s{^/(\w+).*}{$1};
    is_deeply codes("$path?s=502", 2), [ 502, 502 ], "$path: two failures";
    is_deeply codes("$path?s=404", 2), [ 404, 404 ], "$path: a 404 is none";
    is_deeply codes("$path?s=502", 1), [502], "$path: the third";
    my $before = hits();
    my $answer = get($port, $path, method => 'POST', body => 'x' x 300_000);
    is status_of($answer), 503, "$path: open";
    is header_of($answer, 'Retry-After'), 1, "$path: Retry-After";
    like body_of($answer), qr/"SERVICE_UNAVAILABLE"/, "$path: body";
    is_deeply codes('/shared/b', 1), [503], 'a location that shares it' if $path =~ /shared/;
    is hits(), $before, "$path: nothing reaches the backend";
    is_deeply codes('/both/b', 1), [200], "$path: other routes go on";
    like $gateway->log, qr/\[warn\] .*circuit breaker of route "$name" is open for 1\.0 s: 3 failures in \d+\.\d+ s, last http_502/, "$path: log";
    sleep 1.05;
    $before = hits();
    my @answers = burst(60, [$port], "$path?s=slow", at_once => 60);
    is count_of(200, @answers), 1, "$path: one of 60 is the test request";
    is count_of(503, @answers), 59, "$path: the others are refused";
    is hits(), $before + 1, "$path: the backend saw one";
    is_deeply codes($path, 3), [ (200) x 3 ], "$path: closed";
}
{
    open my $log, '<', "$gateway->{dir}/logs/state.log" or die;
    my $states = join '', <$log>;
    like $states, qr{^/named closed,$}m, 'variables: closed';
    like $states, qr{^/named open,1$}m, 'variables: open';
}

# Nested locations: the outer one's, unless they have one of their own.
is_deeply codes('/outer?s=502', 3), [ (502) x 3 ], 'outer: opens';
is_deeply [ @{ codes('/outer', 1) }, @{ codes('/outer/inner', 1) } ], [ 503, 503 ], 'and with it the inner one';
is_deeply codes('/outer/own?s=502', 5), [ (502) x 5 ], 'but not one with a breaker of its own';

# Beside the breaker of the upstream: each counts, each may refuse.
is_deeply codes('/both/a?s=502', 4), [ 502, 502, 502, 503 ], 'both: the route opens first';
is_deeply codes('/both/b?s=502', 3), [ 502, 502, 503 ], 'both: then the upstream, for other routes too';
{
    sleep 1.05;
    my $before = hits();
    is_deeply codes('/both/a', 3), [ (503) x 3 ], 'both: the route would test, the upstream refuses';
    is hits(), $before, 'nothing is sent';
    like $gateway->log, qr/request refused, circuit breaker of upstream "guarded" is open/, 'and the log says who refused';
    open my $log, '<', "$gateway->{dir}/logs/state.log" or die;
    my ($last) = grep {m{^/both/a}} reverse <$log>;
    like $last, qr{^/both/a (?:half_open,1|open,\d+)$}, 'both: $circuit_breaker_state names one that is not closed';
}

# What counts, and what does not.
is_deeply codes('/rescue', 12), [ (200) x 12 ], 'a request that a retry rescued is a success';
is_deeply codes('/fails?s=502', 4), [ (502) x 4 ], 'circuit_breaker_failure: 502 is not listed';
is_deeply codes('/fails/inner?s=404', 4), [ 404, 404, 404, 503 ], 'circuit_breaker_failure: 404 is, and inherited';
is_deeply codes('/return', 5), [ (502) x 5 ], 'an answer of our own is no outcome';
is_deeply codes('/denied', 5), [ (403) x 5 ], 'nor is a refusal of ours';
is_deeply codes('/file', 5), [ (404) x 5 ], 'nor a file';
is_deeply codes('/sub', 5), [ (500) x 5 ], 'nor a subrequest';
is_deeply codes('/named', 1), [200], '…of that route';
is_deeply codes('/dry?s=502', 6), [ (502) x 6 ], 'dry_run';
like $gateway->log, qr/route "dry" would be open for 1\.0 s: 3 failures .*, dry run/, 'dry_run: log';
is_deeply codes('/slow', 3), [ (200) x 3 ], 'slow_rate: nothing is slow';
is_deeply codes('/redirected?s=502', 4), [ 502, 502, 502, 503 ], 'proxy_intercept_errors: the answer of the upstream counts';
is_deeply codes('/named', 1), [200], 'and not for the route that made the page';
is_deeply codes('/page?s=502', 4), [ 502, 502, 502, 200 ], 'error_page and circuit_breaker_status';

# A cache in front: what it has is served.
is_deeply codes('/cached/a', 1), [200], 'cached';
is_deeply [ map { @{ codes("/cached/x$_?s=502", 1) } } 1 .. 3 ], [ (502) x 3 ], 'three failures';
is body_of(get($port, '/cached/a')), 'backend', 'a hit while open';
is_deeply codes('/cached/new', 2), [ 503, 503 ], 'a miss is refused';
sleep 2.1;
is_deeply codes('/cached/y?s=502', 1), [502], 'the test request fails';
is body_of(get($port, '/cached/a')), 'backend', 'an expired copy while open';
is_deeply [ map { @{ codes("/cachedgroup/x$_?s=502", 1) } } 1 .. 4 ], [ 502, 502, 502, 503 ], 'with a variable too';

# safe: only requests that change nothing test.
is_deeply codes('/safe?s=502', 4), [ 502, 502, 502, 503 ], 'safe: open';
sleep 1.05;
{
    my $before = hits();
    for my $method (qw(POST PUT DELETE PATCH)) {
        my $answer = get($port, '/safe', method => $method, body => 'x');
        is status_of($answer), 503, "safe: a $method does not test";
        is header_of($answer, 'Retry-After'), 1, 'safe: and is told to come back soon';
    }
    is hits(), $before, 'safe: none reached the backend';
    is_deeply codes('/safe', 1, method => 'HEAD'), [200], 'safe: HEAD does';
    is_deeply codes('/safe', 1, method => 'POST', body => 'x'), [200], 'safe: closed';
}

# Reload: open stays open, with other thresholds too; a client that leaves and a worker that dies free the permit.
is_deeply codes('/bare?s=502', 4), [ 502, 502, 502, 503 ], 'bare: open';
(my $longer = $rule) =~ s/failures=3/failures=7/;
ok $gateway->reload(http => http($longer), workers => 2, main => $info), 'reload';
is_deeply codes('/bare', 1), [503], 'still open';
for my $how ('client leaves', 'worker dies') {
    wait_until(3, sub { codes('/named?s=502', 1)->[0] == 503 });
    sleep 1.05;
    my $socket = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port") or die;
    print {$socket} "GET /named?s=slow HTTP/1.1\r\nHost: a\r\n\r\n";
    sleep 0.2;
    is_deeply codes('/named', 1), [503], "$how: the permit is out";
    if ($how =~ /worker/) {
        my @workers = $gateway->workers;
        kill 'KILL', @workers;
        wait_until(5, sub { my @now = $gateway->workers; @now == 2 && !grep { my $w = $_; grep { $_ == $w } @workers } @now });
    }
    close $socket;
    ok wait_until(2, sub { codes('/named', 1)->[0] == 200 }), "$how: another may test";
}
ok $gateway->quit, 'quit';
unlike $gateway->log, qr/\[(?:emerg|crit|alert)\](?!.*exited on signal 9)|panic|exited on signal (?!9)/, 'nothing bad in the log';

# Mistakes are refused with their place.
for (
    [ '',                                    'has no name, which comes first in a location' ],
    [ 'failures=3',                          'has no name, which comes first in a location' ],
    [ '""',                                  'has no name, which comes first in a location' ],
    [ 'a failures=33',                       'is refused: invalid failures "33", expected 0 to 32' ],
    [ 'a b',                                 'has unknown parameter "b"' ],
    [ 'a scope=peer',                        'has "scope=peer", which is for an upstream' ],
    [ 'a scope=upstream',                    'has "scope=upstream", which is for an upstream' ],
    [ '$uri',                                'has a variable in its name "$uri", plain text expected' ],
    [ 'dry_run',                             'has no name, which comes first in a location' ],
    [ 'a max_ejected=10%',                   'has "max_ejected=10%", which is for an upstream' ],
    [ 'a half_open_via=probe',               'has "half_open_via=probe", which is for an upstream' ],
    [ 'a half_open_via=never',               'has invalid value "never" of "half_open_via"' ],
    [ 'a; circuit_breaker b',                'is duplicate' ],
    [ 'a; } location /b { circuit_breaker a failures=9', 'gives "a" other parameters than another location' ],
) {
    my ($words, $said) = @$_;
    my ($status, $text) = nginx_t(http => "server { location / { circuit_breaker $words; } }");
    like $text, qr/\[emerg\] .*"circuit_breaker" directive \Q$said\E.* in \S+nginx\.conf:\d+/, "circuit_breaker $words";
    isnt $status, 0, 'refused';
}
{
    my ($status, $text) = nginx_t(http => 'server { circuit_breaker a; }');
    like $text, qr/"circuit_breaker" directive is not allowed here/, 'at server level';
    my $all = 'failures=3 window=10s consecutive=2 failure_rate=50% min_calls=10 slow_call=1s slow_rate=80% open=5s backoff=1.5 max_open=1m jitter=10% half_open=2 half_open_via=safe lease=30s dry_run';
    ($status, $text) = nginx_t(http => "server { location / { circuit_breaker a $all; proxy_pass http://127.0.0.1:1; } }");
    is $status, 0, 'every parameter' or diag $text;
    $all =~ s/via=safe/via=probe/;
    ($status, $text) = nginx_t(http => "upstream u { server 127.0.0.1:1; server 127.0.0.1:2; health_check; circuit_breaker scope=peer max_ejected=30% $all; circuit_breaker $all; }");
    is $status, 0, 'every parameter in an upstream, one for each scope' or diag $text;
}

done_testing;
