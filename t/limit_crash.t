# Workers that are killed under load: the zones stay sane, and whoever takes their place reaches Redis.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Load;
use Sluice::Run;
use Test::More;

my $redis = redis();
my $port  = free_port();
my $gateway = gateway(workers => 2, http => <<"CONF");
redis main { server 127.0.0.1:$redis->{port}; timeout 1s; }
rate_limit_zone \$arg_k zone=gcra:64k rate=6r/h burst=49;
rate_limit_zone \$arg_k zone=window:64k rate=50r/h algorithm=sliding_window;
rate_limit_zone \$arg_k zone=fixed:64k rate=50r/1000d algorithm=fixed_window;
rate_limit_zone \$arg_k zone=redis:64k rate=6r/h burst=49 redis=main;
rate_limit_zone \$arg_k zone=flood:32k rate=1r/h;
server {
    listen 127.0.0.1:$port;
    location /gcra   { rate_limit zone=gcra nodelay; empty_gif; }
    location /window { rate_limit zone=window; empty_gif; }
    location /fixed  { rate_limit zone=fixed; empty_gif; }
    location /redis  { rate_limit zone=redis nodelay; empty_gif; }
    location /flood  { rate_limit zone=flood nodelay; empty_gif; }
}
CONF

my $kills = 0;
for my $zone (qw(gcra window fixed redis)) {
    my ($turns, $began) = (0, $kills);
    my @answers = load_for(0.8, [$port], "/$zone?k=x", at_once => 8, meanwhile => sub {
        return if $turns++ % 60;
        my ($worker) = $gateway->workers;
        $kills += kill 'KILL', $worker if $worker;
    });
    cmp_ok $kills - $began, '>', 1, "$zone: workers were killed";
    ok wait_until(5, sub { $gateway->workers == 2 }), "$zone: there are two again";
    # A request dies with its worker; what it was charged stays charged.
    my $dead = count_of(0, @answers);
    my $admitted = count_of(200, @answers);
    cmp_ok $admitted, '<=', 50, "$zone: $admitted of 50 admitted, never more";
    cmp_ok $admitted, '>=', 50 - $dead, "$zone: and no fewer, but for $dead that died";
    is count_of(200, burst(5, [$port], "/$zone?k=x")), 0, "$zone: the limit still holds";
    is count_of(200, burst(60, [$port], "/$zone?k=y", at_once => 8)), 50, "$zone: exact for another key";
}

# More keys than the zone has room for: no error, and a limit that is asked again and again still holds.
is count_of(qr/0|5\d\d/, map { burst(1, [$port], "/flood?k=$_") } 1 .. 800), 0, 'more keys than room: all answered';
is count_of(200, burst(4, [$port], '/flood?k=hot')), 1, 'more keys than room: the newest is limited';

ok $gateway->quit, 'QUIT ends it';
my $log = $gateway->log;
# A worker that is dead but not yet buried takes a second signal.
cmp_ok scalar(() = $log =~ /exited on signal 9/g), '<=', $kills, 'nobody died but by our hand';
unlike $log, qr/exited on signal (?!9)|panic|\[(?:emerg|crit)\]/, 'nothing bad in its log';
done_testing;
