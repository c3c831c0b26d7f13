# Two gateways of two workers each, one Redis: what they admit together is what one would.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Load;
use Sluice::Run;
use Test::More;

my $redis = redis();

sub http {
    my ($port, $more) = (@_, '');
    return <<"CONF";
redis main { server 127.0.0.1:$redis->{port}; timeout 2s; }
rate_limit_zone \$arg_k   zone=api:1m     rate=100r/m burst=20 redis=main;
rate_limit_zone \$arg_k   zone=window:1m  rate=7r/m algorithm=sliding_window redis=main;
rate_limit_zone \$arg_k   zone=burst:1m   rate=30r/m burst=2 algorithm=sliding_window redis=main;
rate_limit_zone \$arg_k   zone=day:1m     rate=9r/d algorithm=fixed_window redis=main;
rate_limit_zone \$arg_k   zone=own:1m     rate=5r/m redis=main sync=off;
rate_limit_zone wide      zone=wide:1m    rate=1000r/m burst=1000 redis=main;
rate_limit_zone \$arg_k   zone=narrow:1m  rate=1r/m redis=main;
server {
    listen 127.0.0.1:$port;
    location /api    { rate_limit zone=api nodelay; empty_gif; }
    location /slow   { rate_limit zone=api delay=19; empty_gif; }
    location /cost   { rate_limit zone=api nodelay cost=7; empty_gif; }
    location /window { rate_limit zone=window; empty_gif; }
    location /burst  { rate_limit zone=burst; empty_gif; }
    location /day    { rate_limit zone=day; empty_gif; }
    location /own    { rate_limit zone=own nodelay burst=3; empty_gif; }
    location /both   { rate_limit zone=wide nodelay; rate_limit zone=narrow nodelay; empty_gif; }
    location /peek   { rate_limit zone=wide nodelay cost=0; empty_gif; }
    $more
}
CONF
}

my @ports    = (free_port(), free_port());
my @gateways = map { gateway(http => http($_), workers => 2) } @ports;

# One after another, then many at once, spread over both.
for my $at_once (1, 32) {
    my @answers = burst(60, \@ports, "/api?k=a$at_once", at_once => $at_once);
    is count_of(200, @answers), 21, "gcra: 21 of 60, $at_once at once";
    is count_of(429, @answers), 39, "gcra: the others are refused, $at_once at once";
    is count_of(200, burst(30, \@ports, "/window?k=w$at_once", at_once => $at_once)), 7, "sliding_window: 7 of 30, $at_once at once";
    is count_of(200, burst(30, \@ports, "/burst?k=b$at_once",  at_once => $at_once)), 3, "sliding_window and burst: 3 of 30, $at_once at once";
    is count_of(200, burst(30, \@ports, "/day?k=d$at_once",    at_once => $at_once)), 9, "fixed_window: 9 of 30, $at_once at once";
    is count_of(200, burst(30, \@ports, "/cost?k=c$at_once",   at_once => $at_once)), 3, "cost 7: 3 of 30, $at_once at once";
}
is count_of(200, burst(30, \@ports, '/own?k=x', at_once => 8)), 8, 'sync=off: four for each gateway';

my @answers = burst(30, \@ports, '/both?k=z', at_once => 16);
is count_of(200, @answers), 1, 'two limits: the narrow one decides';
my ($left) = map { $_->{head} =~ /X-RateLimit-Remaining: (\d+)/ } burst(1, \@ports, '/peek');
is $left, 1000, 'and what it refused has cost nothing in the wide one';

# Nobody's key is anybody else's; the raw key is not in Redis.
my $secret = 'Bearer-abcdef0123456789';
burst(2, \@ports, "/api?k=$secret");
my $keys = ask($redis->{port}, 'KEYS', '*');
cmp_ok scalar @$keys, '>', 10, 'there are keys';
is scalar(grep { !/^sluice:/ } @$keys), 0, 'all begin with the prefix';
is scalar(grep { /abcdef|Bearer/i } @$keys), 0, 'none holds the raw key';
is scalar(grep { (ask($redis->{port}, 'PTTL', $_) // -1) <= 0 } @$keys), 0, 'each expires';

for my $gateway (@gateways) {
    ok $gateway->quit, 'a gateway ends';
    unlike $gateway->log, qr/\[(?:emerg|alert|crit)\]|panic|exited on signal/, 'nothing bad in its log';
}
done_testing;
