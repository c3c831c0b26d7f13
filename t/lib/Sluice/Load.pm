# Many requests at a time, each timed, and a Redis client of a few lines: for the tests of limits that gateways share.
package Sluice::Load;

use strict;
use warnings;

use Exporter 'import';
use IO::Select;
use IO::Socket::INET;
use IO::Socket::UNIX;
use Time::HiRes ();

use Sluice::Run ();

our @EXPORT = qw(burst load_for count_of slowest ask redis_up);

# burst($n, [$port, …], $path, at_once => C, headers => TEXT): $n requests to the ports in turn, C at a time (1). Each
# answer is { status, seconds, head, body }; status 0 if there was none.
sub burst {
    my ($n, $ports, $path, %of) = @_;
    my $sent = 0;
    return crowd($ports, $path, sub { $sent++ < $n }, %of);
}

# load_for($seconds, …as burst): as many requests as fit, and those under way are waited for.
sub load_for {
    my ($seconds, $ports, $path, %of) = @_;
    my $end = Time::HiRes::time() + $seconds;
    return crowd($ports, $path, sub {
        $of{meanwhile}->() if $of{meanwhile};
        Time::HiRes::time() < $end;
    }, %of);
}

sub crowd {
    my ($ports, $path, $more, %of) = @_;
    my ($select, %open, @done, $turn) = (IO::Select->new);
    my ($at_once, $headers) = ($of{at_once} || 1, $of{headers} || '');
    local $SIG{PIPE} = 'IGNORE';
    while (1) {
        while (keys %open < $at_once && $more->()) {
            my $port   = $ports->[ $turn++ % @$ports ];
            my $began  = Time::HiRes::time();
            my $socket = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port", Timeout => 5);
            if (!$socket) { push @done, answer('', $began); next }
            syswrite $socket, "GET $path HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n$headers\r\n";
            $open{ fileno $socket } = [ $socket, '', $began ];
            $select->add($socket);
        }
        last if !%open;
        for my $socket ($select->can_read(10)) {
            my $one = $open{ fileno $socket };
            next if sysread $socket, $one->[1], 65536, length $one->[1];
            push @done, answer(@$one[ 1, 2 ]);
            $select->remove($socket);
            delete $open{ fileno $socket };
        }
    }
    return @done;
}

sub answer {
    my ($text, $began) = @_;
    my ($head, $body) = split /\r\n\r\n/, $text, 2;
    my $seconds = Time::HiRes::time() - $began;
    return { status => Sluice::Run::status_of($text), seconds => $seconds, head => $head // '', body => $body // '' };
}

# count_of($status, @answers): how many of them have this status (a number or a pattern).
sub count_of {
    my ($status, @answers) = @_;
    return scalar grep { $_->{status} =~ /^$status$/ } @answers;
}

# slowest(@answers): the longest of their times, in seconds.
sub slowest {
    my ($max) = (0);
    for (@_) { $max = $_->{seconds} if $_->{seconds} > $max }
    return $max;
}

# redis_up($port): a connection that ask() takes; undef if there is no server. A path is a unix socket.
sub redis_up {
    my $where = shift;
    return $where =~ m{/} ? IO::Socket::UNIX->new(Peer => $where) : IO::Socket::INET->new(PeerAddr => "127.0.0.1:$where", Timeout => 5);
}

# ask($connection or $port, @command): the reply; an array for arrays, "-ERR …" for errors, undef for nil.
sub ask {
    my ($redis, @words) = @_;
    $redis = redis_up($redis) or return '-no connection' if !ref $redis;
    local $SIG{PIPE} = 'IGNORE';
    syswrite $redis, join '', '*' . @words . "\r\n", map { '$' . length($_) . "\r\n$_\r\n" } @words;
    return reply($redis);
}

sub reply {
    my $redis = shift;
    my $line  = <$redis> // return '-no answer';
    $line =~ s/\r\n$//;
    my ($kind, $rest) = (substr($line, 0, 1), substr $line, 1);
    return $line if $kind eq '-';
    return $rest if $kind eq '+' || $kind eq ':';
    return undef if $rest < 0;
    return [ map { reply($redis) } 1 .. $rest ] if $kind eq '*';
    read $redis, my $text, $rest + 2;
    return substr $text, 0, $rest;
}

1;
