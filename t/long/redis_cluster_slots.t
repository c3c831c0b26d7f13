# A cluster whose keys go round and round while a crowd asks for them: every total exact. Then a primary that hangs.
use strict;
use warnings;
use lib 't/lib';
use List::Util 'shuffle';
use Sluice::Load;
use Sluice::Redis;
use Sluice::Run;
use Test::More;
use Time::HiRes 'time';

plan skip_all => 'long: scripts/test --long' if !$ENV{TEST_SLUICE_LONG};

# A request may take so much longer than the deadline of 50 ms on a machine that does a lot besides.
my $late = 0.5;

my $cluster = cluster(replicas => 1);
my ($servers, $watch, @ports) = ($cluster->servers, watch(), free_port(), free_port());
my @gateways = map { gateway(workers => 2, main => 'error_log logs/error.log info;', http => <<"CONF") } @ports;
redis main { mode cluster; $servers }
redis calm { mode cluster; $servers key_prefix calm; timeout 2s; }
rate_limit_zone \$arg_k zone=flood:1m rate=1000r/s burst=9999 redis=main;
rate_limit_zone \$arg_k zone=key:1m rate=1r/h burst=19 redis=calm;
rate_limit_zone \$arg_k zone=window:1m rate=40r/d algorithm=sliding_window redis=calm;
rate_limit_log_level info;
server {
    listen 127.0.0.1:$_;
    $watch
    location /flood { rate_limit zone=flood nodelay; empty_gif; }
    location /key { rate_limit zone=key nodelay; rate_limit zone=window; empty_gif; }
}
CONF

# Sixty keys, three of them hot; ten requests at once of which any may meet a slot that has just gone.
my (%total, %asked, @odd);
sub ask_for {
    my ($each) = @_;
    for my $k (shuffle(map { ($_) x $each } 1 .. 60)) {
        my @answers = burst($k <= 3 ? 10 : 1, \@ports, "/key?k=$k", at_once => 10);
        $total{$k} += count_of(200, @answers);
        $asked{$k} += @answers;
        push @odd, unwell(@answers), by('fallback', @answers);
    }
}
ask_for(2);
for my $round (1 .. 6) {
    my ($from, $to) = ($round % 3, ($round + 1) % 3);
    my @steps = $cluster->moves($from, $to, 'calm:*');
    my $mover = in_background(0.002, @steps);
    my $began = time;
    ask_for(4);
    waitpid $mover, 0;
    is $?, 0, sprintf 'round %d: %d steps, %.1f s of requests', $round, scalar @steps, time - $began;
}
is scalar(@odd), 0, 'no 5xx, and none by fallback' or diag map { $_->log =~ /gave no decision[^\n]*/g } @gateways;
is_deeply [ map { $total{$_} } 1 .. 60 ], [ map { $asked{$_} < 20 ? $asked{$_} : 20 } 1 .. 60 ], 'each key: 20 of ' . $asked{60};

# A primary hangs: its keys are limited by the host, the others' by Redis, nobody waits for long; then its replica takes over.
my @nodes = $cluster->nodes;
my ($hung, $heir) = @nodes[ 1, 4 ];
my ($began, $acted, $known, $turn, @answers) = (time, 0, 0, 0);
while (time < ($known ? $known + 1.5 : $began + 20)) {
    push @answers, burst(4, \@ports, '/flood?k=f' . $turn++ % 20, at_once => 4);
    if (!$acted && time > $began + 0.3) { $acted = time; $hung->signal('STOP') }
    $known = time if $acted && !$known && $heir->role eq 'master';
}
ok $known, sprintf 'hangs: its replica is primary after %.1f s', $known - $acted;
is scalar(unwell(@answers)), 0, 'hangs: no 5xx among ' . @answers;
cmp_ok slowest(@answers), '<', $late, 'hangs: none is late';
cmp_ok fallback_after($known, @answers), '<=', 1 + slowest(@answers), 'hangs: limited by Redis again within a second';
$hung->signal('CONT');
ok wait_until(10, sub { $hung->role eq 'slave' }), 'awake: a replica now';
@answers = map { burst(1, \@ports, "/flood?k=f$_") } 0 .. 19;
is scalar(by('redis', @answers)), 20, 'awake: all by Redis';

for my $gateway (@gateways) {
    ok $gateway->quit, 'a gateway ends';
    unlike $gateway->log, qr/\[(?:emerg|alert|crit)\]|panic|exited on signal/, 'nothing bad in its log';
}
done_testing;
