# What a gateway knows from Redis's last answer it does not ask again: a flood over the limit costs no Redis calls, and
# what was due is admitted all the same, to the request.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Load;
use Sluice::Run;
use Test::More;
use Time::HiRes 'time';

my $redis = redis();
my @ports = (free_port(), free_port());
my @gateways = map {
    my $port = $_;
    gateway(workers => 2, main => 'error_log logs/error.log crit;', http => <<"CONF");
redis main { server 127.0.0.1:$redis->{port}; timeout 1s; }
rate_limit_zone \$arg_k zone=gcra:1m rate=40r/s burst=9 redis=main;
rate_limit_zone \$arg_k zone=open:1m rate=1r/m burst=9 redis=main on_error=allow;
rate_limit_zone \$arg_k zone=window:1m rate=10r/m algorithm=sliding_window redis=main;
rate_limit_zone \$arg_k zone=day:1m rate=10r/d algorithm=fixed_window redis=main;
server {
    listen 127.0.0.1:$port;
    add_header S \$rate_limit_status:\$rate_limit_source always;
    location /gcra { rate_limit zone=gcra nodelay; empty_gif; }
    location /open { rate_limit zone=open nodelay; empty_gif; }
    location /window { rate_limit zone=window; empty_gif; }
    location /day    { rate_limit zone=day; empty_gif; }
    location /window-peek { rate_limit zone=window cost=0; empty_gif; }
    location /day-peek    { rate_limit zone=day cost=0; empty_gif; }
}
CONF
} @ports;

sub calls { return ask($redis->{port}, 'INFO', 'commandstats') =~ /cmdstat_evalsha:calls=(\d+)/ ? $1 : 0 }
sub said { my ($what, @answers) = @_; return scalar grep { $_->{head} =~ /^S: \Q$what\E\r?$/m } @answers }

# A flood, and nobody else: the calls are those that admit.
burst(4, \@ports, '/gcra?k=warm');
my $before = calls();
my $began  = time;
my @flood  = load_for(1.5, \@ports, '/gcra?k=flood', at_once => 8);
my $took   = time - $began;
my ($calls, $admitted) = (calls() - $before, count_of(200, @flood));
cmp_ok $admitted, '<=', 10 + 40 * $took + 1, "$admitted admitted in $took s: not one too many";
cmp_ok $admitted, '>=', 10 + 40 * 1.5 - 4, 'and none lost';
cmp_ok scalar @flood, '>', 300, 'under a flood, of ' . @flood;
cmp_ok $calls, '<', @flood / 2, "$calls calls of Redis";
cmp_ok said('REJECTED:cache', @flood), '>', @flood / 3, 'most refusals are the gateways\' own';

# Right after a refusal: no call, the same words, and a true Retry-After.
burst(12, [ $ports[0] ], '/open?k=one');
$before = calls();
my @more = burst(20, [ $ports[0] ], '/open?k=one');
is calls(), $before, 'no call for what is known to be refused';
is said('REJECTED:cache', @more), 20, 'all refused by what was cached';
is scalar(grep { $_->{head} =~ /^Retry-After: (\d+)/m && $1 > 55 && $1 <= 60 } @more), 20, 'with Retry-After';

# A window's refusal is remembered too, for its rule and its cost.
for my $kind ('window', 'day') {
    burst(12, [ $ports[0] ], "/$kind?k=one", at_once => 1);
    my @window = burst(20, [ $ports[0] ], "/$kind?k=one");
    is count_of(200, @window), 0, "$kind: used up";
    is said('REJECTED:cache', @window), 20, "$kind: refused by what was cached";
    is count_of(200, burst(1, [ $ports[0] ], "/$kind-peek?k=one")), 1, "$kind: another cost is not";
}

# Lost: `on_error` decides, not the cache.
$redis->signal('KILL');
ok wait_until(5, sub { said('ERROR_ALLOWED:', burst(1, [ $ports[0] ], '/open?k=one')) }), 'Redis lost: on_error decides';

$_->quit for @gateways;
done_testing;
