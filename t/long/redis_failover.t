# Sentinel failovers of all kinds, to the request: a primary that hangs and wakes, one that dies with writes which its replicas
# never saw, and one after the other while requests come.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Load;
use Sluice::Redis;
use Sluice::Run;
use Test::More;

plan skip_all => 'long: scripts/test --long' if !$ENV{TEST_SLUICE_LONG};

# A request may take so much longer than the deadline of 50 ms on a machine that does a lot besides.
my $late = 0.5;

my $set = sentinels(replicas => 2);
my ($servers, $watch, @ports) = ($set->servers, watch(), free_port(), free_port());
my @gateways = map { gateway(workers => 2, main => 'error_log logs/error.log notice;', http => <<"CONF") } @ports;
redis main { mode sentinel; master m; $servers }
redis calm { mode sentinel; master m; $servers timeout 2s; }
rate_limit_zone \$arg_k zone=flood:1m rate=50r/s burst=49 redis=main;
rate_limit_zone \$arg_k zone=seed:1m rate=1r/h burst=19 redis=calm;
rate_limit_log_level info;
server {
    listen 127.0.0.1:$_;
    $watch
    location /flood { rate_limit zone=flood nodelay; empty_gif; }
    location /seed { rate_limit zone=seed nodelay; empty_gif; }
}
CONF

sub seed { my ($name, $n, @at) = @_; return by('redis|cache', burst($n, @at ? \@at : \@ports, "/seed?k=$name", at_once => 4)) }

sub replicated {
    my ($server, $replicas) = @_;
    my $connection = redis_up($server->{socket});
    ask($connection, qw(SET mark 1));
    return ask($connection, 'WAIT', $replicas, 5000) >= $replicas;
}

# judge($name, $lost, $answers, $known, $took): of what came while there was a failover, with so many seconds of the old primary lost.
sub judge {
    my ($name, $lost, $answers, $known, $took) = @_;
    my @answers = @$answers;
    ok $known, "$name: a new primary";
    is scalar(unwell(@answers)), 0, "$name: no 5xx among " . @answers;
    cmp_ok slowest(@answers), '<', $late, "$name: none is late";
    cmp_ok fallback_after($known, @answers), '<=', 1 + slowest(@answers), "$name: limited by Redis again within a second";
    my $most = 50 + 50 * $took + @ports * (50 * away(@answers) + 2) + 50 * $lost;
    cmp_ok count_of(200, @answers), '<=', $most, sprintf '%s: no more than %.0f', $name, $most;
    cmp_ok count_of(200, @answers), '>=', 50 * ($took - 1), "$name: and the rate all the time";
}

# One after the other, each time with the old primary alive; all that was counted before is known to each new one.
for my $turn (1 .. 3) {
    my $name = "turn$turn";
    ok wait_until(40, sub { $set->ready(2) }), "$name: ready";
    my $old = $set->primary;
    is scalar(seed($name, 12)), 12, "$name: 12 of 20 before";
    ok replicated($old, 2), "$name: replicated";
    judge($name, 1.5, under_load(\@ports, "/flood?k=$name", sub { $set->{sentinels}[ $turn % 3 ]->ask(qw(SENTINEL FAILOVER m)) }, sub { $set->moved($old->{port}) }));
    is count_of(200, seed("turn$_", 30)), $_ == $turn ? 8 : 0, "$name: what is left of the key of turn $_" for 1 .. $turn;
}

# It hangs under the load of one gateway. The other one has nothing to do meanwhile, and does not notice by itself. When it
# wakes it takes itself for the primary still.
ok wait_until(40, sub { $set->ready(2) }), 'hangs: ready';
my $old = $set->primary;
is scalar(seed('hangs', 12)), 12, 'hangs: 12 of 20 before';
ok replicated($old, 2), 'hangs: replicated';
judge('hangs', 0.05, under_load([ $ports[0] ], '/flood?k=hangs', sub { $old->signal('STOP') }, sub { $set->moved($old->{port}) }));
$old->signal('CONT');
is $old->role, 'master', 'hangs: awake, and master as it thinks';
my @answers = seed('hangs', 30, $ports[1]);
is count_of(200, @answers), 8, 'hangs: 8 of 20 after, at the gateway that was idle';
is scalar(@answers), 30, 'hangs: by Redis';
is scalar(seed('hangs', 10)), 10, 'hangs: by Redis, at both';
is count_of(200, seed('hangs', 10)), 0, 'hangs: and none more';

# It dies, and its replicas have not seen the last five requests: these may come again, no more.
ok wait_until(40, sub { $set->ready(2) }), 'lag: ready';
$old = $set->primary;
my @replicas = grep { $_ != $old } @{ $set->{servers} };
is count_of(200, seed('lag', 12)), 12, 'lag: 12 of 20 before';
ok replicated($old, 2), 'lag: replicated';
$_->signal('STOP') for @replicas;
is $old->ask(qw(CLIENT KILL TYPE replica)), 2, 'lag: the replicas are cut off';
is count_of(200, seed('lag', 5)), 5, 'lag: 5 more';
$old->kill;
$_->signal('CONT') for @replicas;
ok wait_until(20, sub { $set->moved($old->{port}) }), 'lag: a new primary';
@answers = ();
ok wait_until(1.5, sub { push @answers, burst(4, \@ports, '/seed?k=lag'); by('redis|cache', @answers[ -4 .. -1 ]) == 4 }), 'lag: limited by Redis again';
my @after = burst(40, \@ports, '/seed?k=lag');
is scalar(by('redis|cache', @after)), 40, 'lag: by Redis';
# The gateways may remember what the new primary does not, and refuse what it would admit.
cmp_ok count_of(200, by('redis|cache', @answers, @after)), '<=', 8, 'lag: no more than 8 of 20 after';

for my $gateway (@gateways) {
    ok $gateway->quit, 'a gateway ends';
    unlike $gateway->log, qr/\[(?:emerg|alert|crit)\]|panic|exited on signal/, 'nothing bad in its log';
}
done_testing;
