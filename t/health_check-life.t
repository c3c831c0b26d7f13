# health_check through reloads, dying, stopped and leaving workers: one prober at a time, and never a request to a sick server.
use strict;
use warnings;
use lib 't/lib';
use IO::Socket::INET;
use Sluice::Backends;
use Sluice::Run;
use Test::More;
use Time::HiRes qw(time sleep);

my $b = backends(3);
my ($one, $two, $three) = map { '127.0.0.1:' . $b->port($_) } 1 .. 3;
my $log   = 'error_log logs/error.log notice;';
my $check = 'health_check interval=200ms match=ok timeout=300ms';
my $port  = free_port();

sub http_conf {
    my ($servers, $parameters) = (shift, shift // '');
    return <<"EOT";
        match ok { status 200; json \$.checks.database.status = ok; }
        upstream heap { $servers $check uri=/health?heap $parameters; }
        upstream zone { zone zone 64k; least_conn; $servers $check uri=/health?zone $parameters; }
        server { listen 127.0.0.1:$port; proxy_next_upstream off; location /heap { proxy_pass http://heap; } location /zone { proxy_pass http://zone; } }
EOT
}

my @all     = map {"server $_;"} $one, $two, $three;
my $gateway = gateway(main => $log, workers => 2, http => http_conf("@all"));

# load($seconds): many requests at once from a child; returns a code that ends it and gives (requests, errors).
sub load {
    pipe my $read, my $write or die;
    my $child = fork // die;
    if (!$child) {
        my ($stop, $count, $bad) = (0, 0, 0);
        local $SIG{TERM} = sub { $stop = 1 };
        until ($stop) {
            for my $path ('/heap', '/zone') {
                $count++;
                # A worker that leaves may close a connection before the request was read: clients try again.
                my $answer = get($port, $path) || get($port, $path);
                $bad++ if status_of($answer) != 200;
            }
        }
        syswrite $write, "$count $bad";
        POSIX::_exit(0);
    }
    close $write;
    return sub { kill 'TERM', $child; my $said = ''; 1 while sysread $read, $said, 99, length $said; waitpid $child, 0; return split ' ', $said };
}

sub out { my ($n, $since) = @_; my $log = substr $gateway->log, $since; my $count = () = $log =~ /server \S+:@{[ $b->port($n) ]} is unhealthy/g; return $count }
sub mark { length $gateway->log }
sub back { my ($n, $since) = @_; my $log = substr $gateway->log, $since; my $count = () = $log =~ /server \S+:@{[ $b->port($n) ]} is healthy/g; return $count }

# Reload after reload under load, with the servers in another order each time: nothing for the sick one.
{
    ok wait_until(5, sub { $b->probes(2) >= 2 }), 'probed';
    my $mark = mark();
    $b->sick(2);
    ok wait_until(5, sub { out(2, $mark) == 2 }), 'the sick server is out of both groups';
    my $before = $b->traffic(2);
    my $end    = load();
    for my $round (1 .. 20) {
        push @all, shift @all;
        my @servers = $round % 5 ? @all : (@all, 'server 127.0.0.1:1 down;');
        $gateway->reload(main => $log, workers => 2, http => http_conf("@servers")) or fail "reload $round";
    }
    my ($count, $bad) = $end->();
    cmp_ok $count, '>', 100, "20 reloads under $count requests";
    is $bad, 0, 'all of them answered';
    is scalar($b->traffic(2)) - $before, 0, 'none by the sick server';
    is out(2, $mark), 2, 'and it was never found sick again';
    # Removed and added again within one reload each, it is still known.
    my @without = grep { !/\Q$two\E/ } @all;
    ok $gateway->reload(main => $log, workers => 2, http => http_conf("@without")), 'a reload without it';
    ok $gateway->reload(main => $log, workers => 2, http => http_conf("@all")), 'and with it';
    get($port, $_) for ('/heap', '/zone') x 6;
    is scalar($b->traffic(2)) - $before, 0, 'still none';
    $mark = mark();
    $b->well_again(2);
    ok wait_until(5, sub { back(2, $mark) == 2 }), 'back in both groups';
}

# One probe per interval and server, whatever the number of workers.
{
    sleep 0.3;
    my $before = $b->probes();
    my $from   = time;
    wait_until(3, sub { $b->probes() - $before >= 60 });
    my $expected = (time - $from) / 0.2 * 6;
    cmp_ok scalar($b->probes()) - $before, '<=', $expected * 1.1 + 6, 'no more than one probe per interval';
}

# Each worker killed, each worker stopped: another takes over.
for my $index (0, 1) {
    my $killed = ($gateway->workers)[$index];
    kill 'KILL', $killed;
    my $mark = mark();
    $b->sick(1);
    ok wait_until(3, sub { out(1, $mark) == 2 }), "worker $index killed: a sick server is still found";
    $b->well_again(1);
    ok wait_until(3, sub { back(1, $mark) == 2 }), "worker $index killed: and found well";
    wait_until(3, sub { 2 == (() = $gateway->workers) });
}
for my $index (0, 1) {
    my $stopped = ($gateway->workers)[$index];
    kill 'STOP', $stopped;
    my $mark = mark();
    my $from = time;
    $b->sick($_) for 1 .. 3;
    ok wait_until(3, sub { out(1, $mark) == 2 && out(2, $mark) == 2 && out(3, $mark) == 2 }), sprintf 'worker %d stopped: the other one found all sick in %.2f s', $index, time - $from;
    kill 'CONT', $stopped;
    $b->well_again($_) for 1 .. 3;
    ok wait_until(3, sub { back(1, $mark) == 2 && back(2, $mark) == 2 && back(3, $mark) == 2 }), "worker $index goes on";
}
unlike $gateway->log, qr/\[(?:emerg|crit)\]|panic|internal error/, 'nothing bad in the log';

# mandatory: a reload asks again; persistent: it remembers.
for my $persistent ('', 'persistent') {
    my $mark = mark();
    my $known = scalar $b->probes(1);
    $b->say(1, 'slow');
    $b->well_again(1);
    ok $gateway->reload(main => $log, workers => 2, http => http_conf("@all", "mandatory $persistent")), "reload to mandatory $persistent";
    my $served = $persistent ? 1 : 5;
    ok wait_until($served, sub { status_of(get($port, '/heap')) == 200 && status_of(get($port, '/zone')) == 200 }), 'served once checked';
    $persistent ? is(back(1, $mark), 0, 'nothing to be found out again') : ok(wait_until(3, sub { back(1, $mark) == 2 }), 'checked again before traffic');
}
{
    my $new = backends(1);
    my $at  = '127.0.0.1:' . $new->port(1);
    $new->sick(1);
    ok $gateway->reload(main => $log, workers => 2, http => http_conf("@all server $at;", 'mandatory persistent')), 'a new server, sick from the start';
    get($port, $_) for ('/heap', '/zone') x 8;
    is scalar($new->traffic(1)), 0, 'mandatory: not one request';
}
ok $gateway->quit, 'quit';

# Leaving with probes in flight, and servers that never answer, send garbage, close at once.
{
    my @listeners = map { IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 64, ReuseAddr => 1) or die } 1 .. 3;
    my ($mute, $rude, $closing) = map { '127.0.0.1:' . $_->sockport } @listeners;
    my $child = fork // die;
    if (!$child) {
        $SIG{TERM} = sub { POSIX::_exit(0) };
        my @kept;
        my $bits = '';
        while (1) {
            vec($bits, fileno $_, 1) = 1 for @listeners;
            select my $ready = $bits, undef, undef, undef;
            if (vec $ready, fileno $listeners[0], 1) { push @kept, scalar $listeners[0]->accept }
            if (vec $ready, fileno $listeners[1], 1) { my $s = $listeners[1]->accept; syswrite $s, "\0\1\2garbage\r\n\r\n"; close $s }
            if (vec $ready, fileno $listeners[2], 1) { close $listeners[2]->accept }
        }
    }
    my $gone = free_port();
    my $http = "upstream u { server $mute; server $rude; server $closing; server 127.0.0.1:$gone; health_check interval=100ms timeout=5s; }"
        . "upstream v { server $mute; health_check interval=100ms timeout=200ms uri=/v; } server { listen 127.0.0.1:$port; location / { proxy_pass http://u; } }";
    my $leaving = gateway(main => $log, workers => 2, http => $http);
    for my $reason ("$rude is unhealthy: ", "$closing is unhealthy: connection", "127.0.0.1:$gone is unhealthy: connect() failed", "$mute is unhealthy: timed out after 200 ms") {
        ok wait_until(5, sub { $leaving->log =~ /\Q$reason\E/ }), $reason or diag $leaving->log;
    }
    ok $leaving->reload, 'reload with a probe in flight';
    my $from = time;
    ok $leaving->quit, 'quit with a probe in flight';
    cmp_ok time - $from, '<', 1, 'at once';
    unlike $leaving->log, qr/\[(?:emerg|alert|crit)\]|open socket/, 'and cleanly';
    kill 'TERM', $child;
    waitpid $child, 0;
}

done_testing;
