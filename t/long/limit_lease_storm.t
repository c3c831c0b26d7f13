# sync=lease while gateways are reloaded, workers killed and stopped, and clients gone: never more than C + R (t + T_L) in any
# span of time, and all serve again.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Load;
use Sluice::Oracle;
use Sluice::Run;
use List::Util ();
use Test::More;
use Time::HiRes ();

plan skip_all => 'long: set TEST_SLUICE_LONG' if !$ENV{TEST_SLUICE_LONG};

my ($rate, $capacity, $life, $seconds) = (300, 31, 100, 20);
my $seed = $ENV{TEST_SLUICE_SEED} || time;
srand $seed;
diag "TEST_SLUICE_SEED=$seed";
my $redis = redis();
my @ports = map { free_port() } 1 .. 3;
my @gateways = map {
    my $http = <<"CONF";
redis main { server 127.0.0.1:$redis->{port}; timeout 50ms; breaker failures=5 open=200ms; }
rate_limit_zone \$arg_k zone=lease:1m rate=${rate}r/s burst=30 redis=main sync=lease lease_time=${life}ms;
rate_limit_log_level info;
server {
    listen 127.0.0.1:$_;
    keepalive_requests 100000;
    add_header S \$rate_limit_status:\$rate_limit_source always;
    location / { rate_limit zone=lease nodelay; empty_gif; }
}
CONF
    gateway(workers => 2, main => 'error_log logs/error.log warn;', http => $http);
} @ports;

# All have told Redis that they are alive, and then asked once more who else is.
my $all;
ok wait_until(15, sub {
    my %seen = split / /, ask($redis->{port}, 'GET', 'sluice:gateways') // '';
    return 0 if keys %seen < @gateways;
    $all //= List::Util::max(values %seen);
    return $all < List::Util::min(values %seen);
}), 'the gateways know of each other';

my ($next, %stopped) = (0);
my %deed = (
    reload => sub { $_[0]->signal('HUP') },
    kill   => sub { my @workers = $_[0]->workers; kill 'KILL', $workers[ rand @workers ] if @workers },
    stop   => sub { my ($worker) = $_[0]->workers; kill 'STOP', $worker if $worker; $stopped{$worker} = Time::HiRes::time() + 0.3 if $worker },
    gone   => sub {
        for (1 .. 20) {
            my $socket = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$ports[rand @ports]") or next;
            syswrite $socket, "GET /?k=hot HTTP/1.1\r\nHost: x\r\n\r\n";
        }
    },
);
my $storm = sub {
    my $now = Time::HiRes::time();
    for (keys %stopped) { kill 'CONT', $_ and delete $stopped{$_} if $now > $stopped{$_} }
    return if $now < $next;
    $next = $now + 0.3;
    my @deeds = sort keys %deed;
    $deed{ $deeds[ rand @deeds ] }->($gateways[ rand @gateways ]);
};

my $turn = 0;
my @answers = arrivals([ map { [ $_, $ports[ $turn++ % @ports ], '/?k=hot' ] } poisson($seconds, 2 * $rate) ], meanwhile => $storm);
kill 'CONT', $_ for keys %stopped;
my @in = admitted(@answers);
my $span = $in[-1]{got} - $in[0]{sent};
my $must = bound($capacity + $rate * $life / 1000, $rate, 1000, $span);
# A stopped worker looks at the clock again only when it goes on.
cmp_ok worst_excess(\@in, $capacity + $rate * $life / 1000 + 3, $rate, 1000), '<=', 0, @in . ' of ' . @answers . " admitted, C + R (t + T_L) is $must";
cmp_ok scalar @in, '>', 0.5 * $rate * $span / 1e6, 'and most of what is due, for all that was killed';
is scalar(grep { $_->{status} =~ /^5/ } @answers), 0, 'no 5xx';
ok wait_until(10, sub { count_of(200, burst(6, \@ports, '/?k=' . rand)) == 6 }), 'all serve again';
for (@gateways) {
    ok $_->quit, 'QUIT ends it';
    unlike $_->log, qr/\[(?:emerg|crit)\]|panic|exited on signal (?!9\b)/, 'nothing bad in its log';
}
done_testing;
