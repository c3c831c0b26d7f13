# /events: what changes its state is noted once, whoever saw it; clients wait for the next event without holding a worker up;
# nothing is lost by a reload or by a worker that is killed.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Run;
use Sluice::Load;
use IO::Select;
use IO::Socket::INET;
use JSON::PP;
use Test::More;
use Time::HiRes ();

my ($port, $good, $redis_port) = map { free_port() } 1 .. 3;
my $backend = backend(port => $good, server => 'location /health { if (-f $document_root/ill) { return 503; } return 200; } location / { return 500; }');
my %conf    = (workers => 2, main => 'worker_shutdown_timeout 5s;', http => <<"CONF");
redis main { server 127.0.0.1:$redis_port; connect_timeout 200ms; }
rate_limit_zone \$arg_key zone=z:64k rate=10r/s redis=main;
upstream app {
    server 127.0.0.1:$good;
    circuit_breaker failures=2 window=10s open=300ms;
    health_check interval=100ms uri=/health;
    panic_threshold 50%;
}
server {
    listen 127.0.0.1:$port;
    location \@ok { return 200; }
    location /api { api; }
    location / { proxy_pass http://app; }
    location /limited { rate_limit zone=z; try_files /none \@ok; }
}
CONF
my $gateway = gateway(%conf);

sub events {
    my ($query) = @_;
    return decode_json(body_of(get($port, "/api/9/events?$query")) || '{}');
}

# found(sub { … $_ is an event … }): waits for one.
sub found {
    my $is = shift;
    my $it;
    wait_until(5, sub { ($it) = grep { $is->() } @{ events('since=0')->{events} || [] }; $it });
    return $it;
}

# --- what is noted
my $lost = found(sub { $_->{kind} eq 'redis' && $_->{to} eq 'lost' });
is $lost->{upstream}, 'main', 'a Redis that is lost, once';
like $lost->{time}, qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/, 'with its time';
my $redis = redis(port => $redis_port);
like found(sub { $_->{kind} eq 'redis' && $_->{to} eq 'up' })->{text}, qr/^back after \d+\.\d s$/, 'and is back';
get($port, '/') for 1 .. 2;
my $open = found(sub { $_->{kind} eq 'breaker' && $_->{to} eq 'open' });
is_deeply [ @$open{qw(upstream peer from)} ], [ 'app', '', 'closed' ], 'a breaker that opens';
like $open->{text}, qr/^circuit breaker of upstream "app" is open for 0\.3 s: 2 failures in 0\.\d+ s, last http_500$/, 'and why';
Sluice::Run::spew("$backend->{dir}/html/ill", 'x');
my $ill = found(sub { $_->{kind} eq 'health' });
is_deeply [ @$ill{qw(upstream peer from to)} ], [ 'app', "127.0.0.1:$good", 'up', 'unhealthy' ], 'a verdict';
like $ill->{text}, qr/503/, 'and why';
like found(sub { $_->{kind} eq 'panic' && $_->{to} eq 'panic' })->{text}, qr/^0 of 1 servers are usable, requests go to all of them$/, 'a panic';

my @all = @{ events('since=0')->{events} };
is_deeply [ map { $_->{id} } @all ], [ 1 .. @all ], 'ids begin at 1 and have no gaps';
is scalar(grep { $_->{kind} eq 'panic' } @all), 1, 'two workers that see the same note it once' or diag explain \@all;
my $last = events('since=0')->{last};
is $last, $all[-1]{id}, 'the last of them';
is_deeply events("since=$last"), { last => $last, events => [] }, 'nothing comes after it';
is scalar @{ events('since=' . ($last - 1))->{events} }, 1, 'one after the last but one';
is scalar @{ events('since=999999')->{events} }, scalar @all, 'whoever has been elsewhere begins anew';

# --- bad inputs
for my $query (qw(since=-1 since=x since= wait=-1 wait=x wait=61 wait=1.5 since=99999999999999999999)) {
    my $answer = get($port, "/api/9/events?$query");
    is status_of($answer), 400, $query;
    is decode_json(body_of($answer))->{error}{code}, 'EventsFormatError', 'with a code';
}
is status_of(get($port, '/api/9/events', method => $_)), 405, "$_ is not for events" for qw(POST PATCH DELETE);
is status_of(get($port, '/api/9/events/1')), 404, 'nothing lies below';

# --- waiting
my $began = Time::HiRes::time();
is_deeply events("since=$last&wait=1"), { last => $last, events => [] }, 'nothing happens for a second';
cmp_ok Time::HiRes::time() - $began, '>=', 0.9, 'which is waited for';

# wait_for($n, $query): connections that have asked.
sub wait_for {
    my ($n, $query) = @_;
    return map {
        my $socket = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port") or die "connect: $!\n";
        print {$socket} "GET /api/9/events?$query HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        $socket->blocking(0);
        $socket;
    } 1 .. $n;
}

# answers($seconds, @sockets): what each has got when all have ended, or at the deadline.
sub answers {
    my ($seconds, @sockets) = @_;
    my %got    = map { $_ => '' } @sockets;
    my $select = IO::Select->new(@sockets);
    my $until  = Time::HiRes::time() + $seconds;
    while ($select->count && Time::HiRes::time() < $until) {
        for my $socket ($select->can_read(0.1)) {
            $select->remove($socket) if !sysread $socket, $got{$socket}, 65536, length $got{$socket};
        }
    }
    return map { $got{$_} } @sockets;
}

# connections that the workers hold
sub active { decode_json(body_of(get($port, '/api/9/connections')))->{active} }

my @waiting = wait_for(100, "since=$last&wait=60");
ok wait_until(5, sub { active() > 100 }), 'a hundred clients wait';
$began = Time::HiRes::time();
get($port, '/api/9/nginx') for 1 .. 10;
cmp_ok Time::HiRes::time() - $began, '<', 2, 'and hold nobody up';
close $_ for splice @waiting, 0, 50;
ok wait_until(5, sub { active() < 60 }), 'those that leave are forgotten';
unlink "$backend->{dir}/html/ill";
my @got = answers(5, @waiting);
is scalar(grep { status_of($_) == 200 && @{ decode_json(body_of($_))->{events} } } @got), 50, 'the others hear of the next event';
$last = events('since=0')->{last};

# --- reload
wait_until(5, sub { my $now = events('since=0')->{last}; my $same = $now == $last; $last = $now; Time::HiRes::sleep(0.3); $same });
@waiting = wait_for(100, "since=$last&wait=60");
ok wait_until(5, sub { active() > 100 }), 'a hundred clients wait when nginx reloads';
$began = Time::HiRes::time();
ok $gateway->reload, 'the old workers end';
cmp_ok Time::HiRes::time() - $began, '<', 4, 'soon';
@got = answers(5, @waiting);
is scalar(grep { status_of($_) == 200 && decode_json(body_of($_))->{last} >= $last } @got), 100, 'and answer all of them first';
cmp_ok events('since=0')->{last}, '>=', $last, 'the log goes on';
is events('since=0')->{events}[0]{id}, 1, 'with all that was in it';

# --- a worker is killed
@waiting = wait_for(20, "since=$last&wait=60");
my %old = map { $_ => 1 } $gateway->workers;
kill 'KILL', $_ for keys %old;
ok wait_until(5, sub { 2 == grep { !$old{$_} } $gateway->workers }), 'workers that are killed are replaced';
is events('since=0')->{events}[0]{id}, 1, 'and the log is there';
$redis->stop;
get($port, '/limited?key=1') for 1 .. 6;
ok wait_until(5, sub { grep { $_->{kind} eq 'redis' && $_->{to} eq 'lost' } @{ events("since=$last")->{events} } }), 'and written to';
unlike $gateway->log, qr/\[(alert|emerg)\](?!.*signal 9)/, 'nothing untoward in the log' or diag $gateway->log;

done_testing();
