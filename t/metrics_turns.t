# metrics: where there are many servers an answer is written in turns of the event loop, and others do not wait for it.
use strict;
use warnings;
use lib 't/lib';
use IO::Select;
use IO::Socket::INET;
use Sluice::Run;
use Test::More;

my $port = free_port();
my $servers = join ' ', map { "server 127.0.0.1:$_;" } 20001 .. 20400;
my $http = <<"HTTP";
upstream many { zone many 2m; $servers health_check interval=1h jitter=0; }
server {
    listen 127.0.0.1:$port;
    location = /metrics { metrics; }
    location = /few { metrics max_series=100; }
    location = /quick { return 204; }
    location = /many { proxy_pass http://many; }
}
HTTP
my $gateway = gateway(workers => 1, http => $http);

# asked(@paths): a connection on which these have been asked for, one after the other without waiting.
sub asked {
    my $socket = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port", Timeout => 10) or die "connect: $!\n";
    $socket->autoflush(1);
    print {$socket} map {"$_ HTTP/1.1\r\nHost: a\r\n\r\n"} @_;
    return $socket;
}

# told($socket): one whole answer: its header and its body.
sub told {
    my ($socket, %of) = @_;
    my ($header, $body) = ('', '');
    eval {
        local $SIG{ALRM} = sub { die "timeout\n" };
        alarm 20;
        while ($header !~ /\r\n\r\n/) { $header .= readline($socket) // last }
        my ($length) = $header =~ /^Content-Length: (\d+)/mi;
        while (!$of{head} && $length && length $body < $length) { read $socket, $body, $length - length $body, length $body or last }
        alarm 0;
    };
    alarm 0;
    return ($header, $body);
}

# sound($text): whether it is an answer from the first line to the last.
sub sound {
    my $series = () = $_[0] =~ /^[^#]/mg;
    return $_[0] =~ /\A# HELP/ && $_[0] =~ /^nginx_metrics_series $series\n/m && $_[0] =~ /^nginx_metrics_series_dropped \d+\n\z/m;
}

my ($header, $body) = told(asked('GET /metrics'));
like $header, qr/^HTTP\/1\.1 200 .*^Vary: Accept\r/ms, 'an answer';
ok sound($body), 'all of it';
cmp_ok scalar(() = $body =~ /^nginx_upstream_peer_state\{/mg), '>=', 400, 'with every server';

# Whoever asks later is answered earlier. That takes both to be read within the time the first one takes.
ok wait_until(20, sub {
    my ($slow, $quick) = map { asked() } 1 .. 2;
    print {$slow} "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n";
    print {$quick} "GET /quick HTTP/1.1\r\nHost: a\r\n\r\n";
    my $first = (IO::Select->new($slow, $quick)->can_read(10))[0] // return 0;
    my $was_quick = $first == $quick && !IO::Select->new($slow)->can_read(0);
    sound((told($slow))[1]) or die "torn\n";
    return $was_quick;
}), 'others do not wait for it';

# On one connection answers keep their order.
my $socket = asked('GET /metrics', 'HEAD /metrics', 'GET /quick', 'GET /few', 'GET /metrics');
ok sound((told($socket))[1]), 'the first of five';
($header) = told($socket, head => 1);
like $header, qr/^HTTP\/1\.1 200 .*^Content-Length: \d{5,}\r/ms, 'HEAD tells how long it would be';
like +(told($socket))[0], qr/^HTTP\/1\.1 204 /, 'another';
ok sound((told($socket))[1]), $_ for 'a short one', 'the last';

# More at a time than are written in turns.
my @sockets = map { asked('GET /metrics') } 1 .. 24;
is scalar(grep { sound((told($_))[1]) } @sockets), 24, 'many at a time';

# Those who leave are not waited for.
for (1 .. 40) {
    my $leaves = asked('GET /metrics');
    close $leaves;
}
ok sound((told(asked('GET /metrics')))[1]), 'after many who left';

# A worker that is told to go answers first.
for my $round (1 .. 5) {
    @sockets = map { asked('GET /metrics') } 1 .. 3;
    # Whoever asks after them is answered when they have been read.
    told(asked('GET /quick'));
    my ($old) = $gateway->workers;
    $gateway->signal('HUP');
    is scalar(grep { sound((told($_))[1]) } @sockets), 3, "reload $round: all are answered";
    ok wait_until(10, sub { my @now = $gateway->workers; @now == 1 && $now[0] != $old }), 'and the worker goes';
}

ok $gateway->quit, 'quit';
unlike $gateway->log, qr/\[(?:emerg|alert|crit)\]|internal error|open socket/, 'nothing bad in the log';
done_testing;
