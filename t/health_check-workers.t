# Probes go on whoever dies or is stopped: twelve workers killed one after another, probers stopped for twice their lease. The
# servers write down when they were asked.
use strict;
use warnings;
use lib 't/lib';
use List::Util qw(max);
use Sluice::Backends;
use Sluice::Run;
use Test::More;
use Time::HiRes qw(sleep time);

my ($workers, $interval, $timeout) = (12, 0.5, 0.3);
my $lease = $timeout + 0.125;
my $b     = backends(6);
my $http  = 'match ok { status 200; json $.checks.database.status = ok; } upstream u { zone u 64k; ' . join(' ', map { 'server 127.0.0.1:' . $b->port($_) . ';' } 1 .. 6)
    . ' health_check interval=500ms timeout=300ms match=ok uri=/health; } server { listen 127.0.0.1:' . free_port() . '; location / { proxy_pass http://u; } }';
my $gateway = gateway(main => 'error_log logs/error.log notice;', workers => $workers, http => $http);

# gaps($n, $from, $to): seconds between the probes of server $n then, from the last one before to the first one after.
sub gaps {
    my ($n, $from, $to) = @_;
    my @times = map { (split)[0] } $b->probes($n);
    my ($before) = reverse grep { $_ < $from } @times;
    my ($after)  = grep { $_ > $to } @times;
    my @in = grep { defined } $before, (grep { $_ >= $from && $_ <= $to } @times), $after;
    return map { $in[$_] - $in[ $_ - 1 ] } 1 .. $#in;
}

# judged($what, $from): how the probes since then went, once there is one more of each server.
sub judged {
    my ($what, $from) = @_;
    my $to = time;
    for my $n (1 .. 6) {
        wait_until(5, sub { my ($last) = reverse $b->probes($n); $last && (split ' ', $last)[0] > $to }) or fail "server $n is probed no more";
    }
    my @gaps  = map { gaps($_, $from, $to) } 1 .. 6;
    my $worst = max @gaps;
    cmp_ok $worst, '<', 3, sprintf '%s: no gap over 3 s, the longest of %d is %.2f s', $what, scalar @gaps, $worst;
    # A second prober would ask once more in each interval for as long as it is there.
    for my $n (1 .. 6) {
        my @short = map { $_ < 0.6 * $interval ? 1 : 0 } gaps($n, $from, $to);
        my $twice = grep { $short[$_] && $short[ $_ - 1 ] && $_ } 0 .. $#short;
        is $twice, 0, "$what: server $n never had two probers for longer than an interval" or diag join ' ', map { sprintf '%.2f', $_ } gaps($n, $from, $to);
    }
}

sub all_there { return wait_until(5, sub { $workers == (() = $gateway->workers) }) }

ok all_there(), 'twelve workers';
ok wait_until(5, sub { 6 == grep { $b->probes($_) >= 3 } 1 .. 6 }), 'all servers are probed';
my @first = $gateway->workers;

# The records' numbers say whose turn it is: of these twelve, six are probers.
{
    my $from = time;
    sleep 1.5;
    judged('undisturbed', $from);
}
for my $stopped ([ 0 .. 5 ], [ 3 .. 11 ]) {
    my $from = time;
    kill 'STOP', @first[@$stopped];
    sleep 2 * $lease;
    my @seen = map { scalar $b->probes($_) } 1 .. 6;
    ok wait_until(3, sub { 6 == grep { $b->probes($_) > $seen[ $_ - 1 ] } 1 .. 6 }), 'workers ' . join(',', @$stopped) . ' stopped: all servers are probed by others';
    kill 'CONT', @first[@$stopped];
    sleep 1.5;
    judged('stopped and continued', $from);
}
{
    my $from = time;
    for my $worker (@first) {
        kill 'KILL', $worker;
        sleep 0.25;
    }
    ok all_there(), 'twelve workers killed one after another, all replaced';
    judged('killed', $from);
}
{
    my $from = time;
    kill 'KILL', $gateway->workers;
    ok all_there(), 'all killed at once, all replaced';
    judged('killed at once', $from);
}
$b->sick($_) for 1 .. 6;
ok wait_until(5, sub { 6 == (() = $gateway->log =~ /is unhealthy/g) }), 'and sick servers are found';
unlike $gateway->log, qr/\[(?:emerg|crit)\]|panic|internal error/, 'nothing bad in the log';
ok $gateway->quit, 'quit';

done_testing;
