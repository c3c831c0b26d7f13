# /http/upstreams/U/servers/ID: PATCH changes a server while nginx runs, for all workers, over a reload and the death of
# workers; the configuration's own word counts once it changes; what is wrong is refused with the codes of NGINX Plus.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Run;
use Sluice::Load;
use IO::Select;
use IO::Socket::INET;
use JSON::PP;
use Test::More;

my ($port, $one, $two, $three, $four) = map { free_port() } 1 .. 5;
my @backends = map { my $name = $_->[0]; backend(port => $_->[1], server => "location / { return 200 '$name'; }") }
    [ a => $one ], [ b => $two ], [ c => $three ], [ d => $four ];

sub http {
    my %of = (weight => 'weight=2 max_fails=3', %{ shift || {} });
    return <<"CONF";
upstream app {
    zone app 128k;
    server 127.0.0.1:$one $of{weight};
    server 127.0.0.1:$two;
    server 127.0.0.1:$three backup slow_start=5s;
}
upstream chash { zone chash 128k; hash \$arg_k consistent; server 127.0.0.1:$one; server 127.0.0.1:$two; }
upstream plain { zone plain 128k; hash \$arg_k; server 127.0.0.1:$one; server 127.0.0.1:$two; }
upstream bound { zone bound 128k; server 127.0.0.1:$one route=one; server 127.0.0.1:$two route=two; sticky route \$arg_r; }
upstream static { server 127.0.0.1:$one; }
server {
    listen 127.0.0.1:$port;
    location /api { api write=on; allow 127.0.0.1; deny all; }
    location /read { api; }
    location /app { proxy_pass http://app; }
    location /chash { proxy_pass http://chash; }
    location /plain { proxy_pass http://plain; }
    location /bound { proxy_pass http://bound; }
    location /static { proxy_pass http://static; }
}
CONF
}
my $gateway = gateway(workers => 2, main => 'error_log logs/error.log notice;', http => http());

# api($method, $path, $body): status and document.
sub api {
    my ($method, $path, $body) = @_;
    my %of = (method => $method);
    @of{qw(body Content-Type)} = (ref $body ? encode_json($body) : $body, 'application/json') if defined $body;
    my $answer = get($port, "/api/9/http/upstreams/$path", %of);
    return (status_of($answer), length body_of($answer) ? decode_json(body_of($answer)) : undef);
}

sub patch { return api(PATCH => @_) }
sub server { return (api(GET => "$_[0]/servers/$_[1]"))[1] }

# names($n, $path): who answered so many requests.
sub names {
    my ($n, $path) = @_;
    my %count;
    $count{ body_of(get($port, $path)) || 'none' }++ for 1 .. $n;
    return \%count;
}

my $false = JSON::PP::false;
my $true  = JSON::PP::true;

# --- the objects, exactly as clients compare them
is_deeply [ api(GET => 'app/servers') ], [ 200, [
    { id => 0, server => "127.0.0.1:$one", weight => 2, max_conns => 0, max_fails => 3, fail_timeout => '10s', slow_start => '0s', route => '', backup => $false, down => $false },
    { id => 1, server => "127.0.0.1:$two", weight => 1, max_conns => 0, max_fails => 1, fail_timeout => '10s', slow_start => '0s', route => '', backup => $false, down => $false },
    { id => 2, server => "127.0.0.1:$three", weight => 1, max_conns => 0, max_fails => 1, fail_timeout => '10s', slow_start => '5s', route => '', backup => $true, down => $false },
] ], 'the servers of a group';
is names(30, '/app')->{a}, 20, 'their weights are heeded';

# --- each parameter
for my $change (
    [ weight => 5 ], [ max_conns => 321 ], [ max_fails => 64 ], [ fail_timeout => '21s' ], [ slow_start => '30s' ], [ slow_start => '1500ms' ], [ route => 'test' ], [ route => '' ],
    [ down => $true ], [ down => $false ], [ max_fails => 0 ], [ slow_start => '0s' ], [ weight => 2 ], [ max_conns => 0 ])
{
    my ($name, $value) = @$change;
    my ($status, $server) = patch('app/servers/0/', { $name => $value });
    is_deeply [ $status, $server->{$name} ], [ 200, $value ], "$name is " . encode_json([$value]);
    is_deeply [ map { server('app', 0)->{$name} } 1 .. 6 ], [ ($value) x 6 ], 'as every worker says';
}
is_deeply [ (patch('app/servers/0', { fail_timeout => '2m', slow_start => 15 }))[1]->@{qw(fail_timeout slow_start)} ], [ '120s', '15s' ], 'times in any unit, in seconds as numbers';
is((patch('app/servers/0', { drain => $true }))[1]{drain}, $true, 'drain is there when it is on');
is server('app', 0)->{drain}, $true, 'and stays';
ok !exists((patch('app/servers/0', { drain => $false }))[1]{drain}), 'and is not when it is off';
my $whole = { %{ server('app', 0) }, weight => 4, max_fails => 7, fail_timeout => '9s', slow_start => '30s', route => 'r' };
my $id    = delete $whole->{id};
is_deeply [ patch('app/servers/0/', $whole) ], [ 200, { %$whole, id => $id } ], 'the whole object, as the Go client sends it';
is_deeply [ patch('app/servers/0/', $whole) ], [ 200, { %$whole, id => $id } ], 'twice';

# --- what it does
patch('app/servers/0', { slow_start => '0s' });
my $met; # the other worker hears of it within a second
wait_until(5, sub { ($met = names(30, '/app'))->{a} == 24 });
is_deeply $met, { a => 24, b => 6 }, 'a weight of 4 to 1';
patch('app/servers/0', { down => $true });
is_deeply names(10, '/app'), { b => 10 }, 'a server that is down gets nothing';
is((api(GET => 'app'))[1]{peers}[0]{state}, 'down', 'and is shown so');
patch('app/servers/1', { drain => $true });
ok wait_until(3, sub { !names(4, '/app')->{b} }), 'one that drains gets nothing new';
is_deeply names(10, '/app'), { c => 10 }, 'so the backup serves';
is((api(GET => 'app'))[1]{peers}[1]{state}, 'draining', 'and is shown so');
patch('app/servers/0', { down => $false, weight => 1 });
is_deeply names(10, '/app'), { a => 10 }, 'down ends, and draining of the other does not';
patch('app/servers/1', { drain => $false });
ok wait_until(3, sub { names(4, '/app')->{b} }), 'draining ends';
is_deeply names(20, '/app'), { a => 10, b => 10 }, 'both serve alike';
patch('app/servers/0', { slow_start => '60s', down => $true });
patch('app/servers/0', { down => $false });
ok wait_until(3, sub { (names(20, '/app')->{a} || 0) <= 2 }), 'a server that is back warms up';
patch('app/servers/0', { slow_start => '0s' });
ok wait_until(3, sub { (names(10, '/app')->{a} || 0) == 5 }), 'unless it is not to any more';
patch('plain/servers/0', { weight => 9 });
cmp_ok scalar(grep { body_of(get($port, "/plain?k=$_")) eq 'a' } 1 .. 100), '>', 75, 'hash heeds a weight';
my ($status, $answer) = patch('chash/servers/0', { weight => 9 });
if ($status == 200) {
    cmp_ok scalar(grep { body_of(get($port, "/chash?k=$_")) eq 'a' } 1 .. 100), '>', 75, 'a consistent hash does';
} else {
    is $answer->{error}{code}, 'UpstreamServerWeightImmutable', 'or says that this nginx cannot';
}
is_deeply [ map { body_of(get($port, '/bound?r=three')) } 1 .. 2 ], [ 'a', 'b' ], 'nobody is bound to a route that is not there';
patch('bound/servers/1', { route => 'three' });
ok wait_until(3, sub { 6 == grep { body_of(get($port, '/bound?r=three')) eq 'b' } 1 .. 6 }), 'until a server has it';

# --- what is refused
for my $case (
    [ { id => 1 }, 400, 'UpstreamConfFormatError', 'unknown parameter "id"' ], [ { service => 'x' }, 400, 'UpstreamConfFormatError' ], [ { nothing => 1 }, 400, 'UpstreamConfFormatError' ],
    [ [], 400, 'UpstreamConfFormatError' ], [ { down => 'yes' }, 400, 'UpstreamConfFormatError' ], [ { weight => 0 }, 400, 'UpstreamBadWeight' ], [ { weight => 1e6 }, 400, 'UpstreamBadWeight' ],
    [ { weight => -1 }, 400, 'UpstreamBadWeight' ], [ { max_conns => -1 }, 400, 'UpstreamBadMaxConns' ], [ { max_fails => 'x' }, 400, 'UpstreamBadMaxFails' ],
    [ { fail_timeout => 'soon' }, 400, 'UpstreamBadFailTimeout' ], [ { slow_start => '-1s' }, 400, 'UpstreamBadSlowStart' ], [ { route => 'a;b' }, 400, 'UpstreamBadRoute' ],
    [ { server => "127.0.0.1:$four" }, 400, 'UpstreamServerImmutable' ], [ { backup => $true }, 400, 'UpstreamServerImmutable' ], [ '{', 415, 'JsonError' ], [ '', 415, 'JsonError' ])
{
    my ($body, $code, $name, $text) = @$case;
    my ($status, $document) = patch('app/servers/0', $body);
    is_deeply [ $status, $document->{error}{code} ], [ $code, $name ], (ref $body ? encode_json($body) : "\"$body\"") . " is $name" or diag explain $document;
    is $document->{error}{text}, $text, 'in words' if $text;
}
for my $case ([ 'app/servers/9', 404, 'UpstreamServerNotFound' ], [ 'app/servers/x', 400, 'UpstreamBadServerId' ], [ 'none/servers/0', 404, 'UpstreamNotFound' ], [ 'static/servers/0', 400, 'UpstreamStatic' ]) {
    my ($path, $status, $code) = @$case;
    my ($got, $document) = patch($path, { weight => 1 });
    is_deeply [ $got, $document->{error}{code} ], [ $status, $code ], "$path is $code";
}
($status, $answer) = patch('plain/servers/0', { slow_start => '5s' });
is_deeply [ $status, $answer->{error}{text} ], [ 400, 'balancing method does not support parameter "slow_start"' ], 'hash knows no slow start';
is status_of(get($port, '/read/9/http/upstreams/app/servers/0', method => 'PATCH', body => '{"weight":2}', 'Content-Type' => 'application/json')), 405, 'where nobody may write nobody writes';
is status_of(get($port, '/api/9/http/upstreams/app/servers/0', method => 'PATCH', body => '{"weight":2}')), 415, 'only JSON';
is server('app', 0)->{weight}, 1, 'and nothing of it has changed anything';

# --- eight clients at once
my @kids = map {
    my $kid = $_;
    my $pid = fork // die;
    if (!$pid) {
        for my $n (1 .. 25) {
            my ($got, $server) = patch('app/servers/1', { weight => $kid, max_conns => 1000 + $kid, max_fails => $kid, route => "r$kid" });
            POSIX::_exit(1) unless $got == 200;
        }
        POSIX::_exit(0);
    }
    $pid;
} 1 .. 8;
my $bad = 0;
for (@kids) { waitpid $_, 0; $bad++ if $? }
is $bad, 0, 'eight clients change a server at once';
my $last = server('app', 1);
is_deeply [ $last->@{qw(max_conns max_fails route)} ], [ 1000 + $last->{weight}, $last->{weight}, "r$last->{weight}" ], 'and what is left is what one of them said';

# --- reload, the death of workers
patch('app/servers/0', { weight => 3, down => $true, slow_start => '7s' });
patch('app/servers/1', { drain => $true, weight => 1 });
my $before = (api(GET => 'app/servers'))[1];
ok $gateway->reload, 'nginx reloads';
is_deeply((api(GET => 'app/servers'))[1], $before, 'all that was said is in force');
is_deeply names(10, '/app'), { c => 10 }, 'from the first request on';
patch('app/servers/1', { drain => $false });
my %old = map { $_ => 1 } $gateway->workers;
kill 'KILL', $_ for keys %old;
ok wait_until(5, sub { 2 == grep { !$old{$_} } $gateway->workers }), 'workers are killed and replaced';
ok wait_until(5, sub { (api(GET => 'app/servers'))[0] == 200 }), 'and serve';
is_deeply [ map { server('app', $_)->@{qw(weight slow_start)} } 0, 1 ], [ 3, '7s', 1, '0s' ], 'with all that was said';
ok wait_until(3, sub { names(4, '/app')->{b} }), 'and do it';
ok $gateway->reload, 'nginx reloads once more';
is_deeply [ map { server('app', $_)->@{qw(weight slow_start)} } 0, 1 ], [ 3, '7s', 1, '0s' ], 'and all is there';

# --- the configuration changes
ok $gateway->reload(workers => 2, main => 'error_log logs/error.log notice;', http => http({ weight => 'weight=6 max_fails=3' })), 'the configuration has another weight';
is_deeply [ server('app', 0)->@{qw(weight slow_start down)} ], [ 6, '7s', $true ], 'which counts, and the rest of what was said too';
like $gateway->log, qr/\[notice\].*what was said of server 127\.0\.0\.1:$one through the API is dropped: weight, upstream "app"/, 'with a notice';
patch('app/servers/0', { down => $false, slow_start => '0s', route => '', max_fails => 3, fail_timeout => '10s' });
ok $gateway->reload(workers => 2, main => 'error_log logs/error.log notice;', http => http({ weight => 'weight=1 max_fails=3' })), 'nobody has said anything of it';
is server('app', 0)->{weight}, 1, 'so the configuration counts';

# --- who did what
my $events = decode_json(body_of(get($port, '/api/9/events')))->{events};
my ($event) = grep { $_->{kind} eq 'control' && $_->{text} =~ /^weight 2 -> 5/ } @$events;
is_deeply [ $event->@{qw(upstream peer text)} ], [ 'app', "127.0.0.1:$one", 'weight 2 -> 5, by 127.0.0.1' ], 'a change is an event';
get($port, '/api/9/http/upstreams/app/servers/0?reason=deploy%2042', method => 'PATCH', body => '{"weight":8}', 'Content-Type' => 'application/json');
($event) = grep { $_->{text} =~ /deploy/ } @{ decode_json(body_of(get($port, '/api/9/events')))->{events} };
is $event->{text}, 'weight 1 -> 8, by 127.0.0.1: deploy 42', 'with its reason';
unlike $gateway->log, qr/\[(alert|emerg|crit)\](?!.*signal 9)/, 'nothing untoward in the log' or diag $gateway->log;
done_testing();
