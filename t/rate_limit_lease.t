# sync=lease: quota is taken from Redis in small grants and spent from shared memory. What four gateways admit together stays
# within what the README says, and Redis is asked far less than once a request.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Load;
use Sluice::Run;
use Test::More;
use Time::HiRes 'time';

my $redis = redis();

sub http {
    my ($port, $zone) = @_;
    return <<"CONF";
redis main { server 127.0.0.1:$redis->{port}; timeout 1s; breaker failures=1 open=200ms; }
rate_limit_zone \$arg_k zone=lease:1m  rate=400r/s burst=39 redis=main sync=lease lease_time=100ms;
rate_limit_zone \$arg_k zone=wide:1m   rate=20000r/s burst=2000 redis=main sync=lease;
rate_limit_zone \$arg_k zone=slow:1m   rate=10r/s burst=9 redis=main sync=lease;
rate_limit_zone \$arg_k zone=window:1m rate=500r/s algorithm=sliding_window redis=main sync=lease lease_time=100ms;
rate_limit_zone \$arg_k zone=shaped:1m rate=200r/s burst=20 redis=main sync=lease lease_time=100ms;
rate_limit_zone narrow  zone=narrow:1m rate=5r/m burst=4;
server {
    listen 127.0.0.1:$port;
    add_header S \$rate_limit_status:\$rate_limit_source always;
    location /lease  { rate_limit zone=lease nodelay; empty_gif; }
    location /dry    { rate_limit zone=lease nodelay dry_run; empty_gif; }
    location /wide   { rate_limit zone=wide nodelay; empty_gif; }
    location /big    { rate_limit zone=wide nodelay cost=100; empty_gif; }
    location /slow   { rate_limit zone=slow nodelay; empty_gif; }
    location /window { rate_limit zone=window; empty_gif; }
    location /shaped { rate_limit zone=shaped; empty_gif; }
    location /both   { rate_limit zone=wide nodelay; rate_limit zone=narrow nodelay; empty_gif; }
}
CONF
}

my @ports    = map { free_port() } 1 .. 4;
my @gateways = map { gateway(http => http($_), workers => 2, main => 'error_log logs/error.log warn;') } @ports;

sub calls { return ask($redis->{port}, 'INFO', 'commandstats') =~ /cmdstat_evalsha:calls=(\d+)/ ? $1 : 0 }
sub said { my ($what, @answers) = @_; return scalar grep { $_->{head} =~ /^S: \Q$what\E\r?$/m } @answers }

# Under the limit: one gateway, one client after the other. The grants grow to what is used.
my $before = calls();
my @calm   = load_for(1.0, [ $ports[0] ], '/wide?k=calm', at_once => 2);
is count_of(200, @calm), scalar @calm, 'under the limit nobody is refused, of ' . @calm;
cmp_ok said('PASSED:lease', @calm), '>', 0.7 * @calm, 'most are admitted out of a grant';
cmp_ok calls() - $before, '<', 0.3 * @calm, 'Redis is asked less than once in three requests';

# Over the limit: C + R t + min(K g, R T). Nothing is lost either.
for my $case ([ '/lease', 40, 400, 0.1 ], [ '/window', 500, 500, 0.1 ]) {
    my ($path, $at_once, $rate, $life) = @$case;
    my $began  = time;
    my @flood  = load_for(1.5, \@ports, "$path?k=flood", at_once => 16);
    my $took   = time - $began;
    my $passed = count_of(200, @flood);
    my $most   = $path eq '/window' ? 2 * $rate + $rate * $life : $at_once + $rate * ($took + $life);
    cmp_ok $passed, '<=', $most + 1, "$path: $passed of " . @flood . " in $took s";
    cmp_ok $passed, '>=', 0.8 * ($path eq '/window' ? $rate * 16 / 17 : $rate * 1.5), "$path: and most of what is due";
    is count_of(429, @flood), @flood - $passed, "$path: the others are refused";
}

# A rate that yields less than one request in a grant's life is Redis's to decide, exactly.
my @slow = burst(30, \@ports, '/slow?k=one', at_once => 8);
cmp_ok count_of(200, @slow), '<=', 11, 'a slow rate: exact';
cmp_ok count_of(200, @slow), '>=', 10, 'a slow rate: to the last';
is said('PASSED:lease', @slow), 0, 'a slow rate: no grants';

# Delays as limit_req's; costs; a dry run enforces nothing.
my @shaped = burst(21, [ $ports[0] ], '/shaped?k=one', at_once => 21);
is count_of(200, @shaped), 21, 'delayed, not refused';
cmp_ok slowest(@shaped), '>=', 0.09, 'the last by its place in the queue';
is count_of(200, burst(10, [ $ports[0] ], '/big?k=cost')), 10, 'a cost above the grant';
is count_of(200, burst(80, [ $ports[0] ], '/dry?k=dry')), 80, 'dry run: nothing is refused';

# All or nothing: what a second limit refuses goes back.
my @both = burst(12, [ $ports[0] ], '/both?k=z');
is count_of(200, @both), 5, 'two limits: the narrow one decides';

# Lost: what is left of the grant, then this gateway's part of the limit; no 5xx.
burst(40, [ $ports[0] ], '/wide?k=lost');
$redis->signal('KILL');
my @lost = load_for(0.6, [ $ports[0] ], '/wide?k=lost', at_once => 2);
is count_of('5..', @lost), 0, 'Redis lost: no 5xx of ' . @lost;
cmp_ok said('PASSED:fallback', @lost), '>', 0, 'Redis lost: limited here';

# Reload under load and worker kill: neither hangs nor loses anybody.
ok $gateways[0]->reload, 'reload';
kill 'KILL', ($gateways[1]->workers)[0];
ok wait_until(5, sub { ($gateways[1]->workers) == 2 }), 'a killed worker is replaced';
is count_of(200, burst(4, [ @ports[ 0, 1 ] ], '/wide?k=after')), 4, 'and all serve';

for my $gateway (@gateways) {
    ok $gateway->quit, 'a gateway ends';
    unlike $gateway->log, qr/\[(?:emerg|crit)\]|panic|exited on signal (?!9)/, 'nothing bad in its log';
}
done_testing;
