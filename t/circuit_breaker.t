# circuit_breaker: closed, open, half-open on every way to an upstream; reload and crashes; and what nginx -t says to mistakes.
use strict;
use warnings;
use lib 't/lib';
use IO::Socket::INET;
use Sluice::Load;
use Sluice::Run;
use Test::More;
use Time::HiRes qw(sleep time);

my ($port, $back) = (free_port(), free_port());
my $rule = 'circuit_breaker failures=5 window=10s open=1s';

sub upstream {
    my ($name, $more) = @_;
    return "upstream $name { zone $name 64k; server 127.0.0.1:$back max_fails=0; $more }\n";
}

# http($rule): groups of one name and one location each; the backend answers what ?s= says, and /slow over a second.
sub http {
    my $rule   = shift;
    my $groups = join '', map { upstream($_, $rule . ';') } qw(static variable page fallback cached kept two lease sub half tried mirrored);
    my $more   = upstream('rate', 'circuit_breaker failures=0 failure_rate=50 min_calls=4 window=10s open=20s;')
        . upstream('row', 'circuit_breaker failures=0 consecutive=3 open=20s;')
        . upstream('dry', "$rule dry_run;")
        . upstream('slow', 'circuit_breaker failures=0 slow_rate=50% slow_call=1ms min_calls=2 open=20s;')
        . upstream('long', 'circuit_breaker failures=2 open=400ms lease=700ms backoff=2 max_open=1s jitter=0 min_calls=1 half_open_via=traffic scope=upstream;')
        . upstream('plain', '');
    $groups =~ s/(upstream two \{)/$1 server 127.0.0.1:$back max_fails=0 weight=1 backup;/;
    my @same = map {"location /$_ { proxy_pass http://$_; }\n"} qw(static rate row dry slow long lease half);
    return <<"CONF";
$groups $more
map \$uri \$target { default variable; }
proxy_cache_path cache keys_zone=c:1m;
log_format breaker '\$request_uri \$circuit_breaker_state,\$circuit_breaker_retry_after';
server {
    listen 127.0.0.1:$port;
    client_max_body_size 30m;
    @same
    location /variable { access_log logs/state.log breaker; proxy_pass http://\$target; }
    location /variable/page { proxy_pass http://\$target; error_page 503 /busy; }
    location /variable/fallback { proxy_pass http://\$target; error_page 503 = \@plain; }
    location /page { proxy_pass http://page; error_page 503 /busy; }
    location /page/200 { proxy_pass http://page; error_page 503 =200 /busy; }
    location /fallback { proxy_pass http://fallback; error_page 503 = \@plain; }
    location /cached { proxy_pass http://cached; proxy_cache c; proxy_cache_key \$uri; proxy_cache_valid 200 1s; proxy_cache_use_stale error; proxy_cache_lock on; }
    location /kept { proxy_pass http://kept; proxy_http_version 1.1; proxy_set_header Connection ''; }
    location /two { proxy_pass http://two; proxy_next_upstream http_502; add_header X-Status \$upstream_status; }
    location /auth { auth_request /sub; proxy_pass http://plain; }
    location /sub { proxy_pass http://sub; }
    location /tried { try_files /none \@tried; }
    location \@tried { proxy_pass http://tried; }
    location /mirrored { mirror /copy; proxy_pass http://mirrored; }
    location /copy { internal; proxy_pass http://127.0.0.1:$back/copy?s=200; }
    location /state { return 200 "\$circuit_breaker_state,\$circuit_breaker_retry_after"; }
    location /busy { return 200 busy; }
    location \@plain { proxy_pass http://plain; add_header X-Took \$upstream_response_time; }
    location = /status { stub_status; }
}
server {
    listen 127.0.0.1:$back;
    client_max_body_size 30m;
    access_log logs/backend.log;
    location / {
        if (\$arg_s = 200) { return 200 backend; }
        if (\$arg_s = 404) { return 404; }
        if (\$arg_s = 429) { return 429; }
        if (\$arg_s = 502) { return 502; }
        if (\$http_x_fail = \$server_port) { return 502; }
        if (\$arg_s = slow) { set \$limit_rate 400; return 200 "@{[ 'x' x 900 ]}"; }
        return 200 backend;
    }
}
CONF
}

my $gateway = gateway(http => http($rule), workers => 2, main => 'error_log logs/error.log info;');

# A request is logged after its answer has left: a count holds when it stays for a while.
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
sub trip { my $path = shift; return codes("$path?s=502", 5) }
my $json = '{"success":false,"error":{"code":"SERVICE_UNAVAILABLE","message":"Service temporarily unavailable. Please try again later.","retryAfter":1}}';

# The walk: five failures, open with a true Retry-After, one test request, closed.
for my $path ('/static', '/variable', '/kept', '/tried') {
    is_deeply codes("$path?s=502", 4), [ (502) x 4 ], "$path: four failures";
    is_deeply codes("$path?s=404", 2), [ (404) x 2 ], "$path: a 404 is no failure";
    is_deeply codes("$path?s=502", 1), [502], "$path: the fifth";
    my ($opened, $before) = (time, hits());
    my $answer = get($port, $path);
    is status_of($answer), 503, "$path: open";
    is header_of($answer, 'Retry-After'), 1, "$path: Retry-After";
    is header_of($answer, 'Content-Type'), 'application/json', "$path: type";
    is header_of($answer, 'Cache-Control'), 'no-store', "$path: not to be stored";
    is body_of($answer), $json, "$path: body";
    is body_of(get($port, $path, method => 'HEAD')), '', "$path: HEAD has none";
    is status_of(get($port, $path, method => 'POST', body => 'x' x 200_000)), 503, "$path: POST";
    is hits(), $before, "$path: the upstream is not touched";
    ok wait_until(5, sub { status_of(get($port, $path)) == 200 }), "$path: a test request passes";
    cmp_ok time - $opened, '>=', 0.98, "$path: not before its time";
    is_deeply codes($path, 3), [ (200) x 3 ], "$path: closed again";
}
like $gateway->log, qr/\[warn\] .*circuit breaker of upstream "static" is open for 1\.0 s: 5 failures in \d+\.\d+ s, last http_502/, 'log: open';
like $gateway->log, qr/\[notice\] .*circuit breaker of upstream "static" is half-open: time for a test request/, 'log: half-open';
like $gateway->log, qr/\[notice\] .*circuit breaker of upstream "static" is closed: test request passed/, 'log: closed';
{
    open my $log, '<', "$gateway->{dir}/logs/state.log" or die;
    my $states = join '', <$log>;
    like $states, qr{^/variable\?s=502 closed,$}m, 'variables: closed';
    like $states, qr{^/variable open,1$}m, 'variables: open';
}

# A failed test request opens it again, from that moment on; backoff doubles the stay, a lease ends a lost permit.
{
    is_deeply codes('/long?s=502', 3), [ 502, 502, 503 ], 'open';
    ok wait_until(5, sub { status_of(get($port, '/long?s=502')) == 502 }), 'the test request fails';
    my $opened = time;
    my $answer = get($port, '/long');
    is status_of($answer), 503, 'open again';
    ok wait_until(5, sub { status_of(get($port, '/long')) == 200 }), 'then closed';
    cmp_ok time - $opened, '>=', 0.78, 'after twice the time';
    like $gateway->log, qr/"long" is open for 0\.8 s: test request failed, last http_502/, 'log: open again';
}

# However many ask at once, over two workers: one test request reaches the backend.
for my $path ('/half', '/variable') {
    trip($path);
    is status_of(get($port, $path)), 503, "$path: open";
    sleep 1.05;
    my $before = hits();
    my @answers = burst(120, [$port], "$path?s=slow", at_once => 120);
    is count_of(200, @answers), 1, "$path: one of 120 passes";
    is count_of(503, @answers), 119, "$path: the others are refused";
    ok wait_until(2, sub { hits() > $before }) && hits() == $before + 1, "$path: the backend saw one";
    is status_of(get($port, $path)), 200, "$path: and it closed the breaker";
}

# The holder of the permit leaves: the client while it is answered, its worker. Who uploads holds none before the body is there.
sub client {
    my $text   = shift;
    my $socket = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port") or die;
    print {$socket} $text;
    return $socket;
}
for my $how ('leaves', 'leaves while it uploads', 'loses its worker') {
    trip('/lease');
    sleep 1.05;
    my $upload = $how =~ /upload/;
    my $client = client($upload ? "POST /lease HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx" : "GET /lease?s=slow HTTP/1.1\r\nHost: a\r\n\r\n");
    sleep 0.2;
    my $answer = get($port, '/lease');
    is status_of($answer), $upload ? 200 : 503, "the client $how: meanwhile others " . ($upload ? 'test' : 'are refused');
    is header_of($answer, 'Retry-After'), $upload ? undef : 1, 'and told to come back after `open`, not after the lease';
    if ($how =~ /worker/) {
        my @workers = $gateway->workers;
        kill 'KILL', @workers;
        wait_until(5, sub { my @now = $gateway->workers; @now == 2 && !grep { my $w = $_; grep { $_ == $w } @workers } @now });
    } else {
        close $client;
    }
    ok wait_until(1, sub { status_of(get($port, '/lease')) == 200 }), "the client $how: the permit is free for another";
    is_deeply codes('/lease', 2), [ 200, 200 ], 'and the breaker closed';
}

# error_page wins, by page and by fallback; a POST keeps its body.
for my $path ('/page', '/variable/page') {
    trip($path);
    my $answer = get($port, $path);
    is status_of($answer), 503, "$path: status stays";
    is body_of($answer), 'busy', "$path: error_page wins";
    is header_of($answer, 'Retry-After'), 1, "$path: Retry-After stays";
    sleep 1.05 if $path =~ /variable/;
}
is status_of(get($port, '/page/200')), 200, 'error_page =200';
is header_of(get($port, '/page/200'), 'Retry-After'), undef, 'a page that does not refuse carries no Retry-After';
for my $path ('/fallback', '/variable/fallback') {
    get($port, $path);
    trip($path);
    my $before = hits();
    my $answer = get($port, $path, method => 'POST', body => 'x' x 100_000);
    is status_of($answer), 200, "$path: the fallback answers";
    like header_of($answer, 'X-Took'), qr/^0\.000 : /, "$path: the attempt that was not made took no time" if $path =~ /variable/;
    is header_of($answer, 'Retry-After'), undef, "$path: and says nothing of waiting";
    is hits(), $before + 1, "$path: it alone was asked";
}

# A cache in front: what it has is served, expired copies too where configured; the rest is refused.
{
    is_deeply codes('/cached/a', 1), [200], 'cached';
    is_deeply codes('/cached/b', 1), [200], 'cached';
    is_deeply [ map { @{ codes("/cached/x$_?s=502", 1) } } 1 .. 5 ], [ (502) x 5 ], 'five failures';
    is body_of(get($port, '/cached/a')), 'backend', 'a hit while open';
    is_deeply codes('/cached/new', 2), [ 503, 503 ], 'a miss is refused, and its lock is free';
    sleep 2.1;
    is_deeply codes('/cached/y?s=502', 1), [502], 'test request fails';
    my $before = hits();
    is body_of(get($port, '/cached/b')), 'backend', 'an expired copy while open';
    is hits(), $before, 'without the backend';
}

# The final outcome counts: a retry that rescued the request is a success.
{
    is_deeply codes('/two', 12), [ (200) x 12 ], 'fine';
    is_deeply codes('/two?s=502', 6), [ (502) x 5, 503 ], 'five requests, ten attempts';
}

# Subrequests bring no result, but where it is time for a test: there may be nobody else.
{
    is_deeply codes('/auth', 2), [ 200, 200 ], 'auth_request passes';
    trip('/sub');
    is_deeply codes('/auth', 1), [500], 'auth_request is refused';
    sleep 1.05;
    is_deeply codes('/auth', 2), [ 200, 200 ], 'auth_request tests';
    is_deeply codes('/sub', 1), [200], 'and has closed it';
}

# The other rules.
is_deeply codes('/row?s=502', 2), [ 502, 502 ], 'consecutive: two';
is_deeply codes('/row', 1), [200], 'consecutive: broken off';
is_deeply codes('/row?s=502', 4), [ 502, 502, 502, 503 ], 'consecutive: three';
is_deeply [ @{ codes('/rate', 2) }, @{ codes('/rate?s=502', 3) } ], [ 200, 200, 502, 502, 503 ], 'failure_rate: two of four';
is_deeply codes('/dry?s=502', 8), [ (502) x 8 ], 'dry_run: all pass';
like $gateway->log, qr/"dry" would be open for 1\.0 s: 5 failures.*, dry run/, 'dry_run: but it is logged';
is_deeply codes('/slow', 3), [ 200, 200, 200 ], 'slow_rate: nothing is slow';
is body_of(get($port, '/state')), ',', 'variables are empty where no upstream is named';

# What is refused is not mirrored.
{
    is_deeply [ @{ trip('/mirrored') }, @{ codes('/mirrored', 3) } ], [ (502) x 5, (503) x 3 ], 'with a mirror: open';
    hits();
    open my $log, '<', "$gateway->{dir}/logs/backend.log";
    is scalar(grep {m{/copy}} <$log>), 5, 'with a mirror: only what was sent was mirrored';
}

# A large upload while it is open: refused before it is read.
{
    trip('/static');
    my $socket = client("POST /static HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 20000000\r\n\r\n");
    sysread $socket, my $answer, 4096;
    is status_of($answer), 503, 'no "100 Continue" for what nobody reads';
}

# Reload: the state stays, also under other thresholds; nothing slips through.
{
    get($port, '/static');
    (my $longer = $rule) =~ s/open=1s/open=20s/;
    ok $gateway->reload(http => http($longer), workers => 2, main => 'error_log logs/error.log info;'), 'reload';
    ok wait_until(5, sub { status_of(get($port, '/static?s=502')) == 502 }), 'a test request';
    is_deeply codes('/static', 1), [503], 'open for 20 seconds';
    my $before = hits();
    for my $failures (6 .. 8) {
        (my $other = $longer) =~ s/failures=5/failures=$failures/;
        ok $gateway->reload(http => http($other), workers => 2, main => 'error_log logs/error.log info;'), "failures=$failures";
        my @answers = burst(40, [$port], '/static', at_once => 20);
        is count_of(503, @answers), 40, 'still open';
    }
    is hits(), $before, 'the backend saw nothing';
    cmp_ok header_of(get($port, '/static'), 'Retry-After'), '<=', 20, 'the deadline is the old one';
}

like get($port, '/status'), qr/Active connections: \d/, 'stub_status';
ok $gateway->quit, 'quit';
unlike $gateway->log, qr/\[(?:emerg|crit)\]|panic|exited on signal (?!9)/, 'nothing bad in the log';

# Mistakes are refused with their place.
my @refused = (
    [ 'failures=33',                     'is refused: invalid failures "33", expected 0 to 32' ],
    [ 'failures=many',                   'has invalid value "many" of "failures", a whole number expected' ],
    [ 'failures=',                       'has invalid value "" of "failures", a value expected' ],
    [ 'failures',                        'has invalid value "" of "failures", a value expected' ],
    [ 'failures=-1',                     'has invalid value "-1" of "failures", a whole number expected' ],
    [ 'failures=4294967301',             'has invalid value "4294967301" of "failures", a smaller number expected' ],
    [ 'failures=0',                      'is refused: no rule is left' ],
    [ 'failures=5 failures=6',           'has duplicate parameter "failures"' ],
    [ 'window=0',                        'is refused: invalid window "0ms", expected 10ms to 7d' ],
    [ 'window=soon',                     'has invalid value "soon" of "window", a time such as 500ms, 5s or 1m expected' ],
    [ 'consecutive=1000001',             'is refused: invalid consecutive "1000001", expected 0 to 1000000' ],
    [ 'failure_rate=101%',               'has invalid value "101%" of "failure_rate", a percentage from 0% to 100% expected' ],
    [ 'failure_rate=50 min_calls=0',     'is refused: invalid min_calls "0", expected 1 to 8191' ],
    [ 'slow_call=1s',                    'is refused: "slow_call" needs "slow_rate"' ],
    [ 'slow_rate=50%',                   'is refused: "slow_rate" needs "slow_call"' ],
    [ 'open=0',                          'is refused: invalid open "0ms", expected 1ms to 30d' ],
    [ 'backoff=0.5',                     'is refused: invalid backoff "0.5", expected a number from 1 to 10' ],
    [ 'max_open=31d',                    'is refused: invalid max_open' ],
    [ 'jitter=200%',                     'has invalid value "200%" of "jitter"' ],
    [ 'half_open=0',                     'is refused: invalid half_open "0", expected 1 to 8' ],
    [ 'half_open=9',                     'is refused: invalid half_open "9", expected 1 to 8' ],
    [ 'lease=2d',                        'is refused: invalid lease' ],
    [ 'dry_run=on',                      'has invalid value "on" of "dry_run", no value expected' ],
    [ 'retries=3',                       'has unknown parameter "retries=3"' ],
    [ 'quick',                           'has unknown parameter "quick"' ],
    [ 'scope=all',                       'has invalid value "all" of "scope", "upstream" or "peer" expected' ],
    [ 'half_open_via=x',                 'has invalid value "x" of "half_open_via", "traffic", "safe" or "probe" expected' ],
    [ 'half_open_via=probe',             'has "half_open_via=probe", but upstream "u" has no "health_check"' ],
    [ 'failures=+5',                     'has invalid value "+5" of "failures", a whole number expected' ],
    [ 'jitter=+5%',                      'has invalid value "+5%" of "jitter", a percentage from 0% to 100% expected' ],
    [ 'scope=peer max_ejected=101%',     'has invalid value "101%" of "max_ejected", a percentage from 0% to 100% expected' ],
    [ "scope=peer;\ncircuit_breaker scope=peer", 'is duplicate' ],
    [ "failures=5;\ncircuit_breaker",    'is duplicate' ],
);
for (@refused) {
    my ($words, $said) = @$_;
    my ($status, $text) = nginx_t(http => "upstream u {\nserver 127.0.0.1:1;\ncircuit_breaker $words;\n}");
    like $text, qr/\[emerg\] .*"circuit_breaker" directive \Q$said\E.* in \S+nginx\.conf:\d+/, "circuit_breaker $words";
    isnt $status, 0, 'refused';
}
{
    my ($status, $text);
    ($status, $text) = nginx_t(http => 'upstream u { server 127.0.0.1:1; circuit_breaker max_ejected=50%; }');
    like $text, qr/\[warn\] [^\n]*"max_ejected" has no effect without "scope=peer" in \S+nginx\.conf:\d+/, 'max_ejected of a whole group';
    is $status, 0, 'is as good as not there';
    ($status, $text) = nginx_t(http => 'circuit_breaker;');
    like $text, qr/"circuit_breaker" directive is not allowed here/, 'at http level';
    ($status, $text) = nginx_t(http => 'sluice_zone 32k; ' . join '', map {"upstream u$_ { server 127.0.0.1:1; circuit_breaker; }\n"} 1 .. 40);
    like $text, qr/"sluice_zone" of 32k is too small: 0 checks and 40 breakers need \d+k/, 'a zone that is too small';
    my $all = 'scope=upstream failures=3 window=10s consecutive=2 failure_rate=50% min_calls=10 slow_call=1s slow_rate=80% open=5s backoff=1.5 max_open=1m jitter=10% half_open=2 half_open_via=traffic lease=30s dry_run';
    ($status, $text) = nginx_t(http => "upstream u { server 127.0.0.1:1; circuit_breaker $all; }");
    is $status, 0, 'every parameter' or diag $text;
}

done_testing;
