# sync=async: each gateway decides at once by what it knows; what it admits is added up in Redis, and comes back to the others.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Load;
use Sluice::Run;
use Test::More;
use Time::HiRes 'time';

my $redis = redis();

sub http {
    my ($port) = @_;
    return <<"CONF";
redis main { server 127.0.0.1:$redis->{port}; timeout 200ms; breaker failures=1 open=200ms; }
rate_limit_zone \$arg_k zone=api:1m    rate=10r/m burst=9 redis=main sync=async;
rate_limit_zone \$arg_k zone=window:1m rate=10r/m algorithm=sliding_window redis=main sync=async;
rate_limit_zone \$arg_k zone=day:1m    rate=10r/d algorithm=fixed_window redis=main sync=async;
rate_limit_zone \$arg_k zone=fast:1m   rate=200r/s burst=19 redis=main sync=async;
rate_limit_zone \$arg_k zone=deny:1m   rate=10r/m burst=9 redis=main sync=async on_error=deny;
server {
    listen 127.0.0.1:$port;
    add_header S \$rate_limit_status:\$rate_limit_source always;
    location /api    { rate_limit zone=api nodelay; empty_gif; }
    location /window { rate_limit zone=window; empty_gif; }
    location /day    { rate_limit zone=day; empty_gif; }
    location /fast   { rate_limit zone=fast nodelay; empty_gif; }
    location /deny   { rate_limit zone=deny nodelay; empty_gif; }
}
CONF
}

my @ports    = map { free_port() } 1 .. 2;
my @gateways = map { gateway(http => http($_), workers => 2, main => 'error_log logs/error.log warn;') } @ports;
my ($one, $two) = map { [$_] } @ports;

sub status { return (burst(1, @_))[0]{status} }

for my $path ('/api', '/window', '/day') {
    my @answers = burst(12, $one, "$path?k=a", at_once => 4);
    is count_of(200, @answers), 10, "$path: the limit holds on one gateway, at once";
    like $answers[0]{head}, qr/^S: PASSED:local/m, "$path: decided here";

    # The other one learns it with its first posting.
    ok wait_until(5, sub { status($two, "$path?k=a") == 429 }), "$path: and comes to hold on the other";
}

# Together, over the limit: the rate, and what two gateways admit between two postings; nothing for good.
my $began  = time;
my @flood  = load_for(2.0, \@ports, '/fast?k=flood', at_once => 8);
my $took   = time - $began;
my $passed = count_of(200, @flood);
cmp_ok $passed, '<=', 20 + 200 * $took + 2 * (20 + 200 * 0.25), "$passed of " . @flood . " in $took s";
cmp_ok $passed, '>=', 0.8 * 200 * 2, 'most of what is due';

# What was admitted while Redis is stopped is posted when it answers again.
$redis->signal('STOP');
is count_of('5..', burst(3, $one, '/api?k=debt')), 0, 'stopped: decided here';
ok wait_until(5, sub { status($one, '/deny?k=x') == 503 }), 'on_error=deny holds for async too';
burst(10, $one, '/api?k=debt');
$redis->signal('CONT');
ok wait_until(5, sub { status($two, '/api?k=debt') == 429 }), 'and the other gateway comes to know';

# A gateway that ends posts what it still owes.
burst(10, $one, '/api?k=last');
ok $gateways[0]->quit, 'a gateway ends';
burst(1, $two, '/api?k=last');
ok wait_until(5, sub { status($two, '/api?k=last') == 429 }), 'what it admitted last is known';

ok $gateways[1]->quit, 'the other ends';
unlike $_->log, qr/\[(?:emerg|crit)\]|panic|exited on signal/, 'nothing bad in the log' for @gateways;
done_testing;
