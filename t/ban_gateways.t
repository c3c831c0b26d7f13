# Bans over two gateways that hear of each other's words late, twice, in another order or not at all: the last word holds, for as long
# as it says.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Load;
use Sluice::Redis;
use Sluice::Run;
use JSON::PP;
use Test::More;
use Time::HiRes qw(time sleep);

my $redis = server();
my @ports = map { free_port() } 1 .. 2;
sub http {
    my ($port, $more, $zone) = @_;
    return <<"CONF";
redis main { server 127.0.0.1:$redis->{port}; timeout 500ms; breaker open=200ms; @{[ $more // '' ]} }
ban_zone \$arg_k zone=z:@{[ $zone // '1m' ]} redis=main;
ban_zone \$remote_addr zone=ip:1m redis=main;
server {
    listen 127.0.0.1:$port;
    location / { ban zone=z; empty_gif; }
    location /ip { ban zone=ip status=404 count=3 window=60s duration=60s; }
    location /api { api write=on; allow 127.0.0.1; }
}
CONF
}
my $main     = 'error_log logs/error.log info;';
my @gateways = map { gateway(workers => 4, main => $main, http => http($_)) } @ports;
my ($a, $b)  = @ports;

sub call {
    my ($port, $method, $path, $body) = @_;
    my $answer = get($port, "/api/9/http/bans$path", method => $method, $body ? (body => encode_json($body), 'Content-Type' => 'application/json') : ());
    return wantarray ? (status_of($answer), eval { decode_json(body_of($answer)) }) : status_of($answer);
}
sub by_hand { my ($port, $key, $duration) = @_; return call($port, 'POST', '/z', { key => $key, duration => $duration }) }
sub lift    { my ($port, $key) = @_; return call($port, 'DELETE', "/z/$key") }
sub bans    { my ($status, $zone) = call($_[0], 'GET', '/z'); return $zone || {} }
sub left    { my ($port, $key) = @_; my ($status, $ban) = call($port, 'GET', "/z/$key"); return $status == 200 ? $ban->{left} : 0 }
sub status  { my ($port, $key) = @_; return status_of(get($port, "/x?k=$key")) }
sub soon    { my ($seconds, $code) = @_; return wait_until($seconds, $code) }
sub subscribed { return ($redis->ask('PUBSUB', 'NUMSUB', 'sluice:bans') || [ 0, 0 ])->[1] }
ok soon(10, sub { subscribed() == 8 }), 'all workers have subscribed';

# Ended and begun anew at once, by whichever worker: banned, everywhere.
my @keys = map {"again$_"} 1 .. 100;
by_hand($a, $_, '1h') for @keys;
ok soon(5, sub { (bans($b)->{count} // 0) >= 100 }), 'a hundred bans are known to both';
for my $key (@keys) { lift($a, $key); by_hand($a, $key, '3m') }
my $all = sub { my $n = 0; $n += grep { $_->{left} > 120 && $_->{left} <= 180 } @{ bans($_[0])->{bans} }; return $n };
ok soon(5, sub { $all->($a) == 100 && $all->($b) == 100 }), 'lifted and banned anew at once: all are in force' or diag $all->($a), ' ', $all->($b);
by_hand($a, $_, '1h') for @keys;
by_hand($a, $_, '2m') for @keys;
$all = sub { return scalar grep { $_->{left} <= 120 } @{ bans($_[0])->{bans} } };
ok soon(5, sub { $all->($a) == 100 && $all->($b) == 100 }), 'a shorter one right behind a longer one: all are the shorter one';
lift($a, $_) for @keys;
ok soon(5, sub { !bans($a)->{count} && !bans($b)->{count} }), 'all lifted';

# A shorter one takes the place of a longer one at the other gateway too, and nothing brings that back.
by_hand($a, 'short', '1h');
ok soon(2, sub { left($b, 'short') > 3000 }), 'an hour';
by_hand($a, 'short', '2s');
ok soon(2, sub { left($b, 'short') <= 2 }), 'then two seconds, there too';
ok soon(4, sub { status($a, 'short') == 200 && status($b, 'short') == 200 }), 'which are over';
by_hand($b, 'other', '1h');
sleep 1.2;
is join(' ', status($a, 'short'), status($b, 'short')), '200 200', 'and stay so when the list changes';

# A gateway that stood still hears of a ban when half of it is over.
kill STOP => $gateways[0]->workers;
by_hand($b, 'still', '3s');
sleep 2;
kill CONT => $gateways[0]->workers;
ok soon(1, sub { status($a, 'still') == 403 }), 'it hears of it';
ok soon(5, sub { status($b, 'still') == 200 }), 'over';
by_hand($b, 'another', '1h');
sleep 1;
is join(' ', status($a, 'still'), status($b, 'still')), '200 200', 'at both, and nobody brings it back';

# In an outage one says an hour, and then the other ten seconds.
$redis->kill;
ok soon(5, sub { 2 == grep { $_->log =~ /redis is lost/ } @gateways }), 'Redis is killed';
by_hand($a, 'outage', '1h');
sleep 0.3;
by_hand($b, 'outage', '10s');
$gateways[0]->reload or fail 'reload';
$redis = server(port => $redis->{port});
ok soon(10, sub { subscribed() >= 8 && left($a, 'outage') <= 10 && left($b, 'outage') <= 10 }), 'Redis is back: the later word holds';
ok soon(5, sub { ($redis->ask('ZCARD', 'sluice:{ban:z}') // 0) >= 3 }), 'and an empty Redis is told all, after a reload too';

# Counted together: the gateway that saw the client last says who it was.
get($a, '/ip'), get($b, '/ip'), get($a, '/ip');
ok soon(2, sub { status_of(get($_, '/ip')) == 403 }), 'counted together' for $a, $b;
like join('', map { $_->log } @gateways), qr/\[warn\] [^\n]*banned for 60 s: too many over all gateways \(status\), key 127\.0\.0\.1, zone "ip"/, 'the log says who';
is scalar(() = join('', map { $_->log } @gateways) =~ /too many over all[^\n]*zone "ip"/g), 1, 'once';

# Another database of the same Redis is another world; a small zone holds what ends last, and a new gateway learns in one line.
my ($port3, $port4) = (free_port(), free_port());
my $elsewhere = gateway(http => http($port3, 'database 3;'));
my $small     = gateway(main => $main, http => http($port4, '', '32k'));
ok soon(5, sub { subscribed() >= 10 }), 'two more gateways';
ok soon(5, sub { status($port4, 'other') == 403 }), 'one knows what is in force';
by_hand($a, "many$_", 100 + $_) for 1 .. 400;
ok soon(5, sub { bans($port4)->{count} == bans($port4)->{capacity} }), 'a small zone fills';
my $standing = bans($port4);
by_hand($a, "more$_", '30s') for 1 .. 5;
sleep 1.2;
my $after = bans($port4);
is_deeply [ @$after{qw(count evicted)} ], [ @$standing{qw(count evicted)} ], 'what ends sooner pushes nobody out';
like $small->log, qr/\[warn\] [^\n]*ban zone "z" is full: \d+ bans of other gateways do not hold here/, 'and the log says so';
is status($port3, 'other'), 200, 'a gateway of another database hears nothing';
my $port5 = free_port();
my $new   = gateway(main => $main, http => http($port5));
ok soon(5, sub { (bans($port5)->{count} // 0) > 400 }), 'a new gateway knows all';
like $new->log, qr/\[notice\] [^\n]*\d+ bans of other gateways learnt, zone "z"/, 'in one line';
unlike $new->log, qr/banned for \d+ s by another gateway[^\n]*zone "z"/, 'not one for each';

for my $gateway (@gateways, $elsewhere, $small, $new) {
    ok $gateway->quit, 'a gateway ends';
    unlike $gateway->log, qr/\[(?:emerg|alert|crit)\]|panic|exited on signal/, 'nothing bad in its log';
}
done_testing;
