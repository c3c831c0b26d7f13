# perl t/limit_proxy.pl PORT CONTROL TARGET: a bad network between 127.0.0.1:PORT and 127.0.0.1:TARGET, for the fault tests. A line
# sent to 127.0.0.1:CONTROL says how bad, from then on, and is answered "ok":
#   pass           bytes go through at once (at the beginning)
#   delay MS       what the target answers comes MS later
#   trickle MS     what the target answers comes byte by byte, one each MS
#   garbage MS     random bytes come instead, one each MS
#   hole           connections are accepted, and nothing comes any more
#   reset          connections are reset, those that live and those that come
use strict;
use warnings;
use IO::Select;
use IO::Socket::INET;
use Socket qw(SOL_SOCKET SO_LINGER);
use Time::HiRes 'time';

my ($port, $control, $target) = @ARGV;
my %listen = map { $_ => IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $_, Listen => 128, ReuseAddr => 1) || die "$_: $!\n" } $port, $control;
my $select = IO::Select->new(values %listen);
my ($mode, $ms) = ('pass', 0);
my (%other, %server, %controls, @later, %next);
$SIG{PIPE} = 'IGNORE';
srand 1;

sub drop {
    my ($socket, $hard) = @_;
    for my $one (grep {$_} $socket, delete $other{$socket}) {
        delete $_->{$one} for \%other, \%server, \%next;
        setsockopt $one, SOL_SOCKET, SO_LINGER, pack 'll', 1, 0 if $hard;
        $select->remove($one);
        @later = grep { $_->[1] != $one } @later;
        close $one;
    }
}

sub take {
    my $client = $listen{$port}->accept or return;
    return drop($client, 1) if $mode eq 'reset';
    my $server = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$target") or return drop($client, 1);
    @other{$client, $server} = ($server, $client);
    $server{$server} = 1;
    $select->add($client, $server);
}

# Bytes for a client, one each `ms`, in order.
sub slowly {
    my ($to, $bytes) = @_;
    my $at = $next{$to} && $next{$to} > time ? $next{$to} : time;
    push @later, map { [ $at += $ms / 1000, $to, $_ ] } split //, $bytes;
    $next{$to} = $at;
}

sub pass {
    my $from = shift;
    my $to   = $other{$from} or return;
    return drop($from) if !sysread $from, my $bytes, 65536;
    return if $mode eq 'hole';
    return syswrite $to, $bytes if !$server{$from} || $mode eq 'pass' && !grep { $_->[1] == $to } @later;
    return slowly($to, join '', map { chr int rand 256 } 1 .. length $bytes) if $mode eq 'garbage';
    return slowly($to, $bytes) if $mode eq 'trickle';
    push @later, [ time + ($mode eq 'delay' ? $ms / 1000 : 0), $to, $bytes ];
}

sub obey {
    my $from = shift;
    my $line = <$from>;
    if (!defined $line) { delete $controls{$from}; $select->remove($from); return close $from }
    ($mode, $ms) = (split(' ', $line), 0);
    if ($mode eq 'reset') { drop($_, 1) for grep { $server{$_} } $select->handles }
    syswrite $from, "ok\n";
}

while (1) {
    my $pause = @later ? $later[0][0] - time : 1;
    for my $socket ($select->can_read($pause > 0 ? $pause : 0)) {
        if    ($socket == $listen{$port})    { take() }
        elsif ($socket == $listen{$control}) { my $new = $socket->accept or next; $controls{$new} = 1; $select->add($new) }
        elsif ($controls{$socket})           { obey($socket) }
        else                                 { pass($socket) }
    }
    @later = sort { $a->[0] <=> $b->[0] } @later;
    while (@later && $later[0][0] <= time) {
        my (undef, $to, $bytes) = @{ shift @later };
        syswrite $to, $bytes;
    }
}
