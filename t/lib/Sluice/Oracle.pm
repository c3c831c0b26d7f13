# What limits may admit, worked out here in whole numbers and without the module: sequential models of the algorithms,
# and what any span of time may hold. Times are microseconds of the client: a request was decided between `sent` and
# `got`, nobody here knows when, so only what holds for every such moment is called a fault.
package Sluice::Oracle;

use strict;
use warnings;

use Exporter 'import';
use IO::Select;
use IO::Socket::INET;
use Time::HiRes ();

use Sluice::Run ();

our @EXPORT = qw(arrivals poisson gcra worst_excess worst_window calendar hasty bound admitted quantile said_by);

# A clock that counts whole milliseconds makes a span look longer by up to one of them.
my $grain = 1000;

# --- Clients -------------------------------------------------------------------------------------------------------------

# arrivals([ [ SECONDS, PORT, PATH, HEADERS ], … ], meanwhile => CODE, close => 1): sends each request when it is due, in
# order of time, whatever became of the others, over connections that are kept alive (or not: close). In that order:
# { sent, got, status, head, path, due }; status 0 where no answer came within ten seconds.
sub arrivals {
    my ($plan, %of) = @_;
    my $self = bless { idle => {}, busy => {}, select => IO::Select->new, %of }, 'Sluice::Oracle::Clients';
    my ($next, $begin) = (0, Time::HiRes::time() + 0.02);
    local $SIG{PIPE} = 'IGNORE';
    my @plan = map { { due => int 1e6 * ($begin + $_->[0]), port => $_->[1], path => $_->[2], headers => $_->[3] || '', status => 0 } } @$plan;
    while ($next < @plan || %{ $self->{busy} }) {
        $of{meanwhile}->() if $of{meanwhile};
        $self->send($plan[ $next++ ]) while $next < @plan && $plan[$next]{due} <= 1e6 * Time::HiRes::time();
        my $pause = $next < @plan ? $plan[$next]{due} / 1e6 - Time::HiRes::time() : 0.02;
        $pause = 0.02 if $pause > 0.02;
        $self->read($_) for $self->{select}->can_read($pause > 0 ? $pause : 0);
        $self->give_up;
    }
    return @plan;
}

# poisson($seconds, $rate): moments of random arrivals, so many a second on average.
sub poisson {
    my ($seconds, $rate) = @_;
    my ($at, @at) = (0);
    while (($at -= log(1 - rand) / $rate) < $seconds) { push @at, $at }
    return @at;
}

# admitted(@answers): those with 200.
sub admitted { return grep { $_->{status} == 200 } @_ }

# said_by($source, @answers): those whose header S says so (STATUS:SOURCE).
sub said_by {
    my $source = shift;
    return grep { $_->{head} =~ /^S: \w+:$source\r?$/m } @_;
}

# quantile($q, @answers): of the seconds that they took; 0.99 is p99.
sub quantile {
    my ($q, @answers) = @_;
    my @took = sort { $a <=> $b } map { $_->{got} - $_->{sent} } @answers;
    return @took ? $took[ int $q * $#took ] / 1e6 : 0;
}

# --- What may be -----------------------------------------------------------------------------------------------------------

# bound($capacity, $count, $period, $span): C + R*t: most that a bucket of this capacity, refilled with $count in $period
# milliseconds, admits in $span microseconds.
sub bound {
    my ($capacity, $count, $period, $span) = @_;
    return $capacity + int(($span + $grain) * $count / (1000 * $period));
}

# spans(\@answers, $code): calls $code->(number, microseconds) for each span from one's sending to another's answer, with
# the number that must have been decided within.
sub spans {
    my ($answers, $code) = @_;
    my @by_end = sort { $a->{got} <=> $b->{got} } @$answers;
    for my $from (map { $_->{sent} } @by_end) {
        my $number = 0;
        for (@by_end) {
            next if $_->{sent} < $from;
            $number += $_->{cost} // 1;
            $code->($number, $_->{got} - $from);
        }
    }
    return;
}

# worst_excess(\@admitted, $capacity, $count, $period): by how many the worst of all spans is above C + R*t; at most 0 if all
# is well. (Undef for none.)
sub worst_excess {
    my ($answers, $capacity, $count, $period) = @_;
    my $worst;
    spans($answers, sub {
        my $excess = $_[0] - bound($capacity, $count, $period, $_[1]);
        $worst = $excess if !defined $worst || $excess > $worst;
    });
    return $worst;
}

# worst_window(\@admitted, $length): most that were decided within one true window of $length milliseconds.
sub worst_window {
    my ($answers, $length) = @_;
    my $worst = 0;
    spans($answers, sub { $worst = $_[0] if $_[1] < 1000 * $length && $_[0] > $worst });
    return $worst;
}

# calendar(\@answers, $length): for each calendar window of $length milliseconds, by its number: how many were decided in it
# for sure, and how many may have been.
sub calendar {
    my ($answers, $length) = @_;
    my %windows;
    for (@$answers) {
        my ($first, $last) = map { int $_ / (1000 * $length) } @$_{qw(sent got)};
        $windows{$_}{may}++ for $first .. $last;
        $windows{$first}{sure}++ if $first == $last;
    }
    return map { $_ => [ $windows{$_}{sure} || 0, $windows{$_}{may} ] } keys %windows;
}

# hasty(\@answers, $capacity, $count, $period, $lag): the refusals that no order of events explains: even with every admitted
# request decided as late as it can have been, and a clock that lags $lag milliseconds, there was room for one more.
sub hasty {
    my ($answers, $capacity, $count, $period, $lag) = @_;
    my $each = 1000 * $period / $count;
    my @in   = sort { $a->{got} <=> $b->{got} } admitted(@$answers);
    my ($empty, @empty) = (0);
    push @empty, $empty = ($empty > $_->{got} ? $empty : $_->{got}) + $each for @in;
    return grep {
        my ($from, $to, $before) = (@$_{qw(sent got)}, 0);
        $before++ while $before < @in && $in[$before]{got} <= $to;
        my $open  = grep { $_->{sent} <= $to } @in[ $before .. $#in ];
        my $ahead = $before ? $empty[ $before - 1 ] - $to : 0;
        my $level = ($ahead > 0 ? $ahead : 0) + $open * $each + $to - $from + 1000 * $lag + $grain;
        $level <= ($capacity - 1) * $each;
    } grep { $_->{status} == 429 } @$answers;
}

# --- Sequential models -----------------------------------------------------------------------------------------------------

# gcra($count, $period, $burst, $delay): the leaky bucket of limit_req, $count in $period milliseconds, in ticks: a request
# pours $period of them, $count drain in a millisecond. Without $delay: nodelay.
sub gcra {
    my ($count, $period, $burst, $delay) = @_;
    return bless { n => $count, p => $period, burst => $burst, delay => $delay // $burst, level => 0, last => 0 }, __PACKAGE__;
}

# ahead($now): ticks in the bucket at this millisecond; below 0 by what would have drained since it was empty.
sub ahead {
    my ($self, $now) = @_;
    return $self->{level} - ($now - $self->{last}) * $self->{n};
}

# admit($now, $cost): undef if refused, else the delay in milliseconds.
sub admit {
    my ($self, $now, $cost) = @_;
    $cost //= 1;
    my $level  = $self->ahead($now);
    my $excess = ($level > 0 ? $level : 0) + ($cost - 1) * $self->{p};
    return undef if $excess > $self->{burst} * $self->{p};
    @$self{qw(level last)} = ($excess + $self->{p}, $now);
    my $over = $excess - $self->{delay} * $self->{p};
    return $over > 0 ? int $over / $self->{n} : 0;
}

# margin($now): by how many milliseconds the decisions up to now may come sooner or later without changing this one.
sub margin {
    my ($self, $now) = @_;
    my ($nearest) = sort { $a <=> $b } map { abs $self->ahead($now) - $_ * $self->{p} } @$self{qw(burst delay)};
    return $nearest / $self->{n};
}

package Sluice::Oracle::Clients;

sub connection {
    my ($self, $port) = @_;
    my $idle = pop @{ $self->{idle}{$port} };
    return { socket => $idle, used => 1 } if $idle;
    return { socket => scalar IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port", Timeout => 5) };
}

sub send {
    my ($self, $request) = @_;
    my $one = $self->connection($request->{port});
    my $how = $self->{close} ? 'close' : 'keep-alive';
    @$one{qw(request text)} = ($request, '');
    @$request{qw(sent head)} = (int 1e6 * Time::HiRes::time(), '');
    return $self->end($one) if !$one->{socket};
    $self->{busy}{ fileno $one->{socket} } = $one;
    $self->{select}->add($one->{socket});
    syswrite $one->{socket}, "GET $request->{path} HTTP/1.1\r\nHost: localhost\r\nConnection: $how\r\n$request->{headers}\r\n";
    return;
}

sub read {
    my ($self, $socket) = @_;
    my $one = $self->{busy}{ fileno $socket };
    if (!sysread $socket, $one->{text}, 65536, length $one->{text}) {
        $self->leave($one);
        # nginx closes an idle connection when it likes: nobody has seen this request.
        return $self->send($one->{request}) if $one->{used} && $one->{text} eq '';
        return $self->end($one);
    }
    my ($head, $body) = split /\r\n\r\n/, $one->{text}, 2;
    return if !defined $body || $head !~ /^Content-Length: (\d+)/mi || length $body < $1;
    $self->leave($one);
    push @{ $self->{idle}{ $one->{request}{port} } }, $socket if $head =~ /^Connection: keep-alive/mi;
    return $self->end($one);
}

sub leave {
    my ($self, $one) = @_;
    $self->{select}->remove($one->{socket});
    delete $self->{busy}{ fileno $one->{socket} };
    return;
}

sub end {
    my ($self, $one) = @_;
    my $request = $one->{request};
    $request->{got} = 1 + int 1e6 * Time::HiRes::time();
    ($request->{head}) = split /\r\n\r\n/, $one->{text}, 2;
    $request->{head} //= '';
    $request->{status} = Sluice::Run::status_of($one->{text});
    return;
}

sub give_up {
    my $self = shift;
    my $late = 1e6 * (Time::HiRes::time() - 10);
    for my $one (grep { $_->{request}{sent} < $late } values %{ $self->{busy} }) {
        $self->leave($one);
        $self->end($one);
    }
    return;
}

1;
