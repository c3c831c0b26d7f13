# A Redis that is too small for its keys, under a flood of new ones. noeviction: it takes no writes, and hosts limit by themselves.
# allkeys-lru: it forgets what limits stand on, but not the keys in use.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Load;
use Sluice::Oracle;
use Sluice::Run;
use Test::More;
use Time::HiRes 'time';

plan skip_all => 'a long test: scripts/test --long' if !$ENV{TEST_SLUICE_LONG};

srand 9;
my ($rate, $capacity) = (40, 9);
for my $policy (qw(noeviction allkeys-lru)) {
    my $redis = redis(args => [ '--maxmemory-policy', $policy ]);
    my @ports = map { free_port() } 1, 2;
    my @gateways = map { gateway(main => 'error_log logs/error.log notice;', http => <<"CONF") } @ports;
redis main { server 127.0.0.1:$redis->{port}; timeout 50ms; breaker failures=5 open=200ms; }
rate_limit_zone \$arg_k zone=one:10m rate=${rate}r/s burst=8 redis=main;
rate_limit_zone \$arg_k zone=many:10m rate=10r/h burst=9 redis=main;
rate_limit_log_level info;
server {
    listen 127.0.0.1:$_;
    keepalive_requests 1000000;
    add_header S \$rate_limit_status:\$rate_limit_source always;
    location /one  { rate_limit zone=one nodelay; empty_gif; }
    location /many { rate_limit zone=many nodelay; empty_gif; }
}
CONF
    ok wait_until(10, sub { 2 == grep { header_of(get($_, '/one?k=' . rand), 'S') eq 'PASSED:redis' } @ports }), "$policy: Redis decides";
    my ($used) = ask($redis->{port}, qw(INFO memory)) =~ /used_memory:(\d+)/;
    # Room for some two thousand keys.
    is ask($redis->{port}, qw(CONFIG SET maxmemory), $used + 400_000), 'OK', "$policy: a small Redis";

    # A machine that does much else makes answers late, never early: what is late is tried again.
    my ($turn, $n, $seconds, @answers, @hot) = (0, 0, 6);
    for my $try (1 .. 3) {
        @answers = arrivals([
            map { [ $_->[0], $ports[ $turn++ % 2 ], $_->[1] ] } sort { $a->[0] <=> $b->[0] }
                (map { [ $_, "/one?k=hot$try" ] } poisson($seconds, 4 * $rate)), (map { [ $_, '/many?k=' . ++$n ] } poisson($seconds, 800))
        ]);
        @hot = admitted(grep { $_->{path} eq "/one?k=hot$try" } @answers);
        last if quantile(0.99, @answers) <= 0.12 && ($policy eq 'noeviction' || !said_by('fallback', @hot));
    }
    my ($evicted) = ask($redis->{port}, qw(INFO stats)) =~ /evicted_keys:(\d+)/;
    my $fallback = said_by('fallback', @answers);
    cmp_ok $policy eq 'noeviction' ? $fallback : $evicted, '>', 100, "$policy: Redis was full: $evicted keys evicted, $fallback decided by hosts, of $n keys";
    is count_of(qr/0|5\d\d/, @answers), 0, "$policy: all answered, " . @answers;
    is count_of(429, grep { $_->{path} =~ /many/ } @answers), 0, "$policy: nobody new is refused";
    my $span = $hot[-1]{got} - $hot[0]{sent};
    my $must = bound($capacity, $rate, 1000, $span);
    # A key in use is never the least recently used; that Redis takes samples, and that a gateway has not heard of the other's last
    # requests when Redis is full, is what the other bucket is for.
    cmp_ok scalar @hot, '<=', $must + $capacity, "$policy: " . @hot . " admitted, C + R*t is $must";
    is ask($redis->{port}, qw(CONFIG SET maxmemory 0)), 'OK', "$policy: room again";
    ok wait_until(10, sub { 4 == grep { $_->{head} =~ /^S: PASSED:redis\r?$/m } burst(4, \@ports, '/one?k=' . rand) }), "$policy: Redis decides again";
    my @after = arrivals([ map { [ $_, $ports[ $turn++ % 2 ], '/one?k=after' ] } poisson(1, 4 * $rate) ]);
    my ($took, $calm) = map { quantile(0.99, @$_) } \@answers, \@after;
    cmp_ok $took, '<=', 0.12 + $calm, sprintf '%s: p99 of %d ms, %d without any fault', $policy, 1000 * $took, 1000 * $calm;
    cmp_ok worst_excess([ admitted(@after) ], $capacity, $rate, 1000), '<=', 0, "$policy: exactly again, " . admitted(@after) . ' of ' . @after if !said_by('fallback', @after);
    for (@gateways) {
        ok $_->quit, 'QUIT ends it';
        unlike $_->log, qr/\[(?:emerg|alert|crit)\]|panic|exited on signal/, 'nothing bad in its log';
    }
    $redis->stop;
}
done_testing;
