# What limit_faults.t and limit_network.t share: two gateways at four times the limit, a fault in the middle, and the verdict on it.
# Per key: R = 40/s, C = 9. The deadline of a decision is 50 ms.
package main;

use strict;
use warnings;
use lib 't/lib';
use List::Util ();
use Sluice::Load;
use Sluice::Oracle;
use Sluice::Run;
use Test::More;
use Time::HiRes ();

my ($rate, $capacity, $p99) = (40, 9, 0.12);
my (@ports, @gateways);

# gateways($redis_port): starts both, with a worker each.
sub gateways {
    my $redis = shift;
    srand 7;
    @ports = (free_port(), free_port());
    @gateways = map { gateway(main => 'error_log logs/error.log notice;', http => <<"CONF") } @ports;
redis main { server 127.0.0.1:$redis; timeout 50ms; connect_timeout 200ms; breaker failures=5 open=200ms; }
rate_limit_zone \$arg_k zone=one:1m rate=${rate}r/s burst=8 redis=main;
rate_limit_log_level info;
server {
    listen 127.0.0.1:$_;
    keepalive_requests 100000;
    add_header S \$rate_limit_status:\$rate_limit_source always;
    location / { rate_limit zone=one nodelay; empty_gif; }
}
CONF
    ok wait_until(15, acquainted($redis)), 'the gateways know of each other';
    return @ports;
}

# acquainted($redis_port): true when both have told Redis that they are alive, and then asked once more who else is.
sub acquainted {
    my ($redis, $both) = @_;
    return sub {
        my %seen = split / /, ask($redis, 'GET', 'sluice:gateways') // '';
        return 0 if keys %seen < 2;
        $both //= List::Util::max(values %seen);
        return $both < List::Util::min(values %seen);
    };
}

sub all_quit {
    for (@gateways) {
        ok $_->quit, 'QUIT ends it';
        unlike $_->log, qr/\[(?:emerg|alert|crit)\]|panic|exited on signal/, 'nothing bad in its log';
    }
    return;
}

sub well {
    return wait_until(15, sub {
        my @answers = burst(6, \@ports, '/?k=' . rand);
        return 6 == grep { $_->{head} =~ /^S: PASSED:redis\r?$/m } @answers;
    });
}

# Overload on one key, and some that nobody limits: what happens to all of them counts for the times.
sub traffic {
    my ($key, $seconds) = @_;
    my $turn = 0;
    my @hot = map { [ $_, "/?k=$key" ] } poisson($seconds, 4 * $rate);
    my @own = map { [ $_, '/?k=' . rand ] } poisson($seconds, 60);
    return map { [ $_->[0], $ports[ $turn++ % 2 ], $_->[1] ] } sort { $a->[0] <=> $b->[0] } @hot, @own;
}

# The longest time between two looks of the client at its connections, which are milliseconds apart.
my $still;

# fault($name, begin => CODE, end => CODE 0.7 s after it, each => CODE called each 100 ms between, and what is expected:
# strict => Redis is never away; forgets => how often somebody makes Redis forget the key without its going away).
# A machine that does much else makes answers late, never early: what is late is tried again, and again if this process itself
# has stood still meanwhile.
sub fault {
    my ($name, %of) = @_;
    my ($key, @answers, $took) = ($name =~ tr/ //dr);
    for my $try (1 .. 12) {
        ok well(), "$name: at first Redis decides" or return;
        @answers = during("$key-$try", %of);
        $took = quantile(0.99, @answers);
        last if $took <= $p99 && !($of{strict} && said_by('fallback', @answers));
        last if $try >= 4 && $still < 0.04;
    }
    is scalar(grep { $_->{status} !~ /^(?:200|429)$/ } @answers), 0, "$name: nothing but 200 and 429 among " . @answers;
    judge($name, \%of, admitted(grep { $_->{path} =~ /\Q$key\E/ } @answers));
    my $calm = right_again($name, $key);
    cmp_ok $took, '<=', $p99 + $calm, sprintf '%s: p99 of %d ms, %d without any fault', $name, 1000 * $took, 1000 * $calm;
    return @answers;
}

# during($key, …as fault): the answers to 1.3 s of traffic with a fault in it.
sub during {
    my ($key, %of) = @_;
    my ($start, $did, $tick, $begin, $end) = (Time::HiRes::time(), 0, 0, 0.3, 1.0);
    my $last = $start;
    $still = 0;
    my $step = sub {
        my $now = Time::HiRes::time();
        my $at  = $now - $start;
        $still = $now - $last if $now - $last > $still;
        $last  = $now;
        if (!$did && $at > $begin) { $did = 1; $of{begin}->() if $of{begin} }
        if ($did == 1 && $of{each} && $at > $begin + 0.1 * $tick && $at < $end) { $tick++; $of{each}->() }
        if ($did == 1 && $at > $end) { $did = 2; $of{end}->() if $of{end} }
    };
    my @answers = arrivals([ traffic($key, 1.3) ], meanwhile => $step);
    while ($did < 2) { Time::HiRes::sleep(0.01); $step->() }
    return @answers;
}

# Exact again as soon as Redis decides everything; a busy machine may miss a deadline now and then. Returns p99.
sub right_again {
    my ($name, $key) = @_;
    my @after;
    for my $try (1 .. 10) {
        ok well(), "$name: Redis decides again" if $try == 1;
        @after = arrivals([ grep { $_->[2] =~ /-after/ } traffic("$key-after$try", 0.4) ]);
        last if !said_by('fallback', @after);
    }
    is scalar(said_by('fallback', @after)), 0, "$name: Redis decides everything";
    cmp_ok worst_excess([ admitted(@after) ], $capacity, $rate, 1000), '<=', 0, "$name: and never above C + R*t, " . admitted(@after) . ' of ' . @after;
    is scalar(hasty(\@after, $capacity, $rate, 1000, 15)), 0, "$name: nor below";
    return quantile(0.99, @after);
}

# What both may admit: C + R*t, exactly while Redis decides. Each takes its share while it is away, from what it had heard of the key; and
# when it is back it is told. A bucket each time where it is made to forget.
sub judge {
    my ($name, $of, @in) = @_;
    my $span = $in[-1]{got} - $in[0]{sent};
    my $must = bound($capacity, $rate, 1000, $span);
    if ($of->{strict}) {
        cmp_ok worst_excess(\@in, $capacity, $rate, 1000), '<=', 0, "$name: " . @in . " admitted, C + R*t is $must";
        return;
    }
    cmp_ok scalar @in, '>=', $must / 3, "$name: not too few";
    # What each gateway had not heard of the other when Redis went: a share of one bucket.
    cmp_ok scalar @in, '<=', $must + (1 + ($of->{forgets} // 0)) * $capacity, "$name: " . @in . " admitted, C + R*t is $must";
    return;
}

1;
