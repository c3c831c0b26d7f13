# ban_zone: keys, what survives reload and crash, a zone that is full, and what is refused.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Load;
use Sluice::Run;
use Test::More;

my $port = free_port();
sub server_of { my ($zone, $more) = (@_, ''); return (main => 'error_log logs/error.log info;', http => "$zone\nserver { listen 127.0.0.1:$port; $more\n"
    . 'location / { ban zone=z status=404 count=3 window=60s duration=60s; add_header B "$ban_status" always; empty_gif; } location /none { ban zone=z status=404 count=3 window=60s duration=60s; }'
    . ' location /admin { api write=on; allow 127.0.0.1; } }') }
sub bad { my ($key, $n) = @_; return join ' ', map { status_of(get($port, "/none?k=$key")) } 1 .. $n }

# Any key; an empty one is not banned, others are not touched.
my $gateway = gateway(workers => 2, server_of('ban_zone $arg_k zone=z:1m;'));
is bad('a', 5), '404 404 404 403 403', 'the third 404 puts the key away';
is bad('b', 2), '404 404', 'another key is not';
is bad('', 5), '404 404 404 404 404', 'an empty key is not banned';
my $answer = get($port, '/?k=a');
is status_of($answer), 403, 'everywhere where the zone is named';
is header_of($answer, 'B'), 'BANNED', '$ban_status';

# Reload keeps bans and counts; a larger zone keeps the bans.
ok $gateway->reload, 'reloaded';
is bad('a', 1), 403, 'the ban survives a reload';
is bad('b', 2), '404 403', 'the counts survive it';
ok $gateway->reload(workers => 2, server_of('ban_zone $arg_k zone=z:2m;')), 'reloaded with a larger zone';
is bad('a', 1), 403, 'the ban survives that';
like header_of(get($port, '/?k=a'), 'Retry-After'), qr/^(?:5\d|60)$/, 'with its end';
$gateway->signal('HUP');
Sluice::Run::write_conf($gateway->{dir}, workers => 2, server_of('ban_zone $arg_other zone=z:2m;'));
$gateway->signal('HUP');
ok wait_until(5, sub { $gateway->log =~ /\[emerg\] [^\n]*zone "z" uses the "\$arg_other" key while previously it used the "\$arg_k" key/ }), 'another key is refused';
is bad('a', 1), 403, 'and the old configuration goes on';
Sluice::Run::write_conf($gateway->{dir}, workers => 2, server_of('ban_zone $arg_k zone=z:2m;'));

# Workers that are killed leave nothing behind that is stuck.
for my $round (1 .. 5) {
    kill 'KILL', $gateway->workers;
    ok wait_until(5, sub { status_of(get($port, "/?k=new$round")) == 200 }), "killed $round: served again";
}
is bad('a', 1), 403, 'the ban survives workers that are killed';
is bad('c', 4), '404 404 404 403', 'and others are counted';
ok $gateway->quit, 'ends';
unlike $gateway->log =~ s/\[emerg\][^\n]*uses the[^\n]*//gr, qr/\[(?:emerg|alert)\](?![^\n]*exited on signal 9)|panic/, 'nothing bad in its log';

# A zone that is full lets the ban end that would end soonest, and says so.
$gateway = gateway(server_of('ban_zone $arg_k zone=z:32k;'));
my @answers = map { burst(3, [$port], "/none?k=f$_") } 1 .. 400;
is count_of(404, @answers), 1200, 'four hundred keys are banned in a zone for fewer';
is bad('f400', 1), 403, 'the last one is';
like $gateway->log, qr/banned for 60 s: 3 responses, status=404 within 60 s, key #[0-9a-f]{8}, zone "z"/, 'each is said';
ok wait_until(5, sub { bad('f400', 1); $gateway->log =~ /\[warn\] [^\n]*ban zone "z" is full: \d+ bans have ended before their time/ }), 'it is said';
is scalar(() = $gateway->log =~ /is full/g), 1, 'once';
ok $gateway->quit, 'ends';

# Addresses: the same client by $remote_addr and $binary_remote_addr; IPv6 by address.
$gateway = gateway(main => 'error_log logs/error.log warn;', http => <<"CONF");
ban_zone \$binary_remote_addr zone=bin:1m;
ban_zone \$remote_addr zone=text:1m;
set_real_ip_from 127.0.0.1;
real_ip_header X-Real-IP;
server {
    listen 127.0.0.1:$port;
    ban zone=bin status=404 count=2 window=60s duration=60s;
    ban zone=text status=404 count=2 window=60s duration=60s;
    location / { }
    location /api { ban zone=bin; api write=on; allow all; }
}
CONF
for my $address ('203.0.113.9', '2001:db8::9') {
    is join(' ', map { status_of(get($port, '/x', 'X-Real-IP' => $address)) } 1 .. 3), '404 404 403', "$address is banned";
}
is status_of(get($port, '/x', 'X-Real-IP' => '2001:db8::a')), 404, 'its neighbour is not';
is status_of(get($port, '/x', 'X-Real-IP' => '2001:db8:0:0::9')), 403, 'written otherwise it is';
is status_of(get($port, '/x', 'X-Real-IP' => '::ffff:203.0.113.9')), 403, 'mapped into IPv6 too';
my $list = body_of(get($port, '/api/9/http/bans'));
like $list, qr/"key":"203\.0\.113\.9"/, 'listed by address';
like $list, qr/"key":"2001:db8::9"/, 'listed by address';
like $gateway->log, qr/banned for 60 s: 2 responses, status=404 within 60 s, key 2001:db8::9, zone "bin"/, 'logged by address';
ok $gateway->quit, 'ends';

# A key that is no address is never shown.
my $secret = 'Bearer-abcdef0123456789';
$gateway = gateway(server_of('ban_zone $http_authorization zone=z:1m;'));
is join(' ', map { status_of(get($port, '/none', Authorization => $secret)) } 1 .. 4), '404 404 404 403', 'a secret is banned';
unlike $gateway->log, qr/abcdef/, 'and not in the log';
like $gateway->log, qr/key #[0-9a-f]{8}, zone "z"/, 'which has a bit of its hash';
$list = body_of(get($port, '/admin/9/http/bans/z'));
like $list, qr/"key":"[0-9a-f]{32}"/, 'listed by its hash';
unlike $list, qr/abcdef|Bearer/, 'only';
ok $gateway->quit, 'ends';

# What is refused.
my %wrong = (
    'ban_zone;'                                       => 'invalid number of arguments in "ban_zone" directive',
    'ban_zone $arg_k;'                                => '"ban_zone" directive must have "zone" parameter',
    'ban_zone $arg_k zone=z;'                         => '"ban_zone" directive has invalid value "z" of "zone", NAME:SIZE',
    'ban_zone $arg_k zone=z:9;'                       => '"ban_zone" directive has zone "z" that is too small',
    'ban_zone $arg_k zone=z:1m zone=y:1m;'            => '"ban_zone" directive has duplicate parameter "zone"',
    'ban_zone $arg_k zone=z:1m; ban_zone $uri zone=z:1m;' => '"ban_zone" directive has duplicate zone "z"',
    'ban_zone $arg_k zone=z:1m redis=main;'           => '"ban_zone" directive names unknown redis "main"',
    'ban_zone $arg_k zone=z:1m rate=1r/s;'            => '"ban_zone" directive has unknown parameter "rate=1r/s"',
    'ban_zone $nothing_such zone=z:1m;'               => 'unknown "nothing_such" variable',
    'server { ban_zone $arg_k zone=z:1m; }'           => '"ban_zone" directive is not allowed here',
);
for my $text (sort keys %wrong) {
    my ($status, $said) = nginx_t(http => $text);
    isnt $status, 0, "refused: $text";
    like $said, qr/\[emerg\] [^\n]*\Q$wrong{$text}\E/, 'with the reason';
    like $said, qr/ in [^\n]*nginx\.conf:\d+/, 'and the place' unless $text =~ /nothing_such/;
}
done_testing;
