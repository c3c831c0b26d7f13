# Bans that gateways share through Redis: known to all at once, held while Redis is away, told when it is back; and a banned
# client costs no call of Redis.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Load;
use Sluice::Redis;
use Sluice::Run;
use Test::More;
use Time::HiRes qw(time sleep);

# The rights in the README are all that is needed.
my ($readme) = do { local (@ARGV, $/) = 'README.md'; <> };
my @rights = map { split ' ', s/sluice:/p:/gr } $readme =~ /ACL SETUSER sluice (?:on >PASSWORD )?(\S.*)/g;
cmp_ok scalar(grep {/^[+~&-]/} @rights), '>=', 17, 'the rights in the README';
my @users = ('--user', 'gate', 'on', '>pw', @rights, '--user', 'deaf', 'on', '>pw', 'resetchannels', '&p:none', grep { !/^&|subscribe|publish/ } @rights);
my $redis = server(args => \@users);
my @ports = (free_port(), free_port());
my @gateways = map { gateway(workers => 2, main => 'error_log logs/error.log info;', http => <<"CONF") } @ports;
redis main { server 127.0.0.1:$redis->{port}; timeout 500ms; breaker open=200ms; key_prefix p; username gate; password pw; }
ban_zone \$arg_k zone=login:1m redis=main;
ban_zone \$arg_k zone=short:1m redis=main;
rate_limit_zone \$arg_k zone=limit:1m rate=1000r/s burst=1000 redis=main;
server {
    listen 127.0.0.1:$_;
    location / { ban zone=login status=404 count=4 window=60s duration=60s; rate_limit zone=limit nodelay; }
    location /short { ban zone=short status=404 count=2 window=60s duration=300ms max_duration=100s; }
    location /api { api write=on; allow 127.0.0.1; }
}
CONF
my ($a, $b) = @ports;

sub status  { my ($port, $path) = @_; return status_of(get($port, $path)) }
sub all     { my ($path, @more) = @_; return join ' ', map { status($_, $path) } @ports, @more }
sub soon    { my ($seconds, $code) = @_; my $began = time; return wait_until($seconds, $code) ? time - $began : undef }
sub connected { return ($redis->ask('PUBSUB', 'NUMSUB', 'p:bans') || [ 0, 0 ])->[1] }
sub calls   { my $of = $redis->info('commandstats'); my $n = 0; $n += $1 while $of =~ /^cmdstat_(?:eval|evalsha|publish|zadd|mget|set):calls=(\d+)/mg; return $n }
sub api     { my ($port, $method, $path, $body) = @_; return get($port, "/api/9/http/bans/$path", method => $method, defined $body ? ('Content-Type' => 'application/json', body => $body) : ()) }

ok wait_until(10, sub { connected() == 4 }), 'each worker has subscribed';

# Four gone wrong at one gateway: banned at the other one too, at once.
is join(' ', map { status($a, '/x?k=one') } 1 .. 5), '404 404 404 404 403', 'banned by the gateway that saw it';
my $took = soon(2, sub { status($b, '/x?k=one') == 403 });
ok defined $took, 'the other one knows';
cmp_ok $took, '<', 0.5, sprintf 'after %.3f s: by a message', $took;
is all('/x?k=else'), '404 404', 'nobody else is banned';

# Counted together: three here, one there.
is join(' ', map { status($a, '/x?k=two') } 1 .. 3), '404 404 404', 'three at one';
sleep 0.1;
is status($b, '/x?k=two'), 404, 'one at the other';
ok soon(2, sub { all('/x?k=two') eq '403 403' }), 'together they are too many';
like join('', map { $_->log } @gateways), qr/\[notice\] [^\n]*banned for 60 s by another gateway \(status\), key #[0-9a-f]{8}, zone "login"/, 'said';

# What a banned client costs.
sleep 0.3;
my $before = calls();
my @answers = burst(400, \@ports, '/x?k=one', at_once => 8);
my ($after, $spent) = (calls());
is count_of(403, @answers), 400, 'refused by both';
# Looks at the list and heartbeats go on: each is a few commands a second.
cmp_ok $after - $before, '<', 100, 'four hundred refusals: ' . ($after - $before) . ' commands of all kinds';
cmp_ok slowest(@answers), '<', 1, 'none waits';

# Names in Redis are hashed, and all of it expires.
my @keys = @{ $redis->must('KEYS', '*') };
is scalar(grep { /one|two|else/ } @keys), 0, 'no raw key in Redis';
is scalar(grep { !/^p:/ } @keys), 0, 'all begin with the prefix';
is scalar(grep { ($redis->ask('PTTL', $_) // -1) <= 0 } @keys), 0, 'each expires';

# By hand: put away, and let out, for all.
my $answer = api($a, 'POST', 'login', '{"key": "hand", "duration": "1m", "reason": "scans \"us\""}');
is status_of($answer), 201, 'banned by hand';
like body_of($answer), qr/"times":1,"cause":"manual","reason":"scans \\"us\\"","source":"local"/, 'as it is';
ok defined soon(1, sub { all('/x?k=hand') eq '403 403' }), 'at both gateways';
is status_of(api($b, 'DELETE', 'login/hand')), 204, 'lifted at the other one';
ok defined soon(1, sub { all('/x?k=hand') eq '404 404' }), 'at both';
is status_of(api($b, 'DELETE', 'login/hand')), 404, 'once';
is status_of(api($a, 'GET', 'login/hand')), 404, 'not there any more';
is status_of(api($a, 'DELETE', 'login/one')), 204, 'one that came by counting is lifted too';
ok defined soon(1, sub { all('/x?k=one') eq '404 404' }), 'at both';

# Redis is killed: bans hold, each gateway bans for itself, and lifts.
is join(' ', map { status($a, '/x?k=held') } 1 .. 5), '404 404 404 404 403', 'before: one more is banned';
ok soon(1, sub { status($b, '/x?k=held') == 403 }), 'at both';
$redis->kill;
ok wait_until(5, sub { 2 == grep { $_->log =~ /redis is lost/ } @gateways }), 'Redis is killed';
@answers = burst(60, \@ports, '/x?k=held', at_once => 4);
is count_of(403, @answers), 60, 'bans hold';
is join(' ', map { status($b, '/x?k=alone') } 1 .. 5), '404 404 404 404 403', 'one gateway bans by itself';
is status($a, '/x?k=alone'), 404, 'the other does not know';
is status_of(api($a, 'DELETE', 'login/two')), 204, 'one is lifted at one gateway';
is all('/x?k=two'), '404 403', 'where it was lifted';

# It comes back empty: what is in force is told, what was lifted is lifted.
my $back = server(port => $redis->{port}, args => \@users);
$redis = $back;
ok wait_until(10, sub { connected() == 4 }), 'Redis is back, empty';
ok defined soon(5, sub { status($a, '/x?k=alone') == 403 }), 'a ban made meanwhile is told';
ok defined soon(5, sub { status($b, '/x?k=two') == 404 }), 'so is an end';
is all('/x?k=held'), '403 403', 'what was held is still in force';
ok wait_until(5, sub { ($redis->ask('ZCARD', 'p:{ban:login}') // 0) >= 2 }), 'and in the list again';
sleep 1;
is all('/x?k=two'), '404 404', 'what was lifted stays so';

# A gateway that comes later reads the list.
my $third = free_port();
my $late = gateway(main => 'error_log logs/error.log warn;', http => <<"CONF");
redis main { server 127.0.0.1:$redis->{port}; timeout 500ms; key_prefix p; username deaf; password pw; }
ban_zone \$arg_k zone=login:1m redis=main;
server { listen 127.0.0.1:$third; location / { ban zone=login; } }
CONF
ok defined soon(3, sub { status($third, '/x?k=held') == 403 }), 'a new gateway knows of bans';
is status($third, '/x?k=two'), 404, 'and not of what was lifted';

# One that may not subscribe looks once a second, and says so.
is join(' ', map { status($a, '/x?k=deaf') } 1 .. 5), '404 404 404 404 403', 'banned';
$took = soon(3, sub { status($third, '/x?k=deaf') == 403 });
ok defined $took, 'who does not hear finds out';
cmp_ok $took // 9, '<', 1.5, sprintf 'after %.2f s', $took // 9;
like $late->log, qr/\[warn\] [^\n]*bans of other gateways are looked for once a second, and not heard of at once: [^\n]*redis "main"/, 'and says so';

# Twice as long each time, wherever.
my @lengths;
for my $round (1 .. 3) {
    my $port = $ports[ $round % 2 ];
    wait_until(3, sub { status($port, '/short/x?k=again') == 404 });
    status($port, '/short/x?k=again') for 1 .. 2;
    my ($gateway) = $gateways[ $round % 2 ];
    push @lengths, (($gateway->log =~ /banned for (\d+) s: 2 responses[^\n]*zone "short"/g)[-1] // 0);
    my $left = header_of(get($port, '/short/x?k=again'), 'Retry-After') // 0;
    is $left, [ 0, 1, 1, 2 ]->[$round], "ban $round: $left s";
    wait_until(2, sub { status($ports[ ($round + 1) % 2 ], '/short/x?k=again') == 403 });
}

# Redis stalls: nobody waits.
$redis->signal('STOP');
@answers = burst(40, \@ports, '/x?k=held', at_once => 4);
is count_of(403, @answers), 40, 'stopped: bans hold';
cmp_ok slowest(@answers), '<', 0.4, 'none waits';
$redis->signal('CONT');

# Values that are not ours, and messages that are none of ours.
$redis->must('SET', 'p:{ban:login}', 'x') if $redis->must('DEL', 'p:{ban:login}');
$redis->must('PUBLISH', 'p:bans', $_) for 'ban', "ban login " . 'f' x 32 . ' 9 9 9 9', 'ban nozone ' . 'f' x 32 . ' 9000 0 1 1', "\0\xff" x 100,
    'ban login ' . 'f' x 32 . ' 99999999999999999999 0 1 1', 'lift login x 0', 'ban login ' . 'e' x 32 . ' 18446744073709551615 18446744073709551615 4294967295 1';
ok wait_until(5, sub { ($redis->ask('TYPE', 'p:{ban:login}') // '') ne 'string' || status($a, '/x?k=foreign') }), 'served';
is join(' ', map { status($a, '/x?k=fresh') } 1 .. 5), '404 404 404 404 403', 'foreign values: banned';
ok defined soon(3, sub { status($b, '/x?k=fresh') == 403 }), 'and shared';

# Each right is needed: without it the log says so.
my (@blocks, @names);
for my $right (grep { /^\+(?:publish|z|pexpireat)/ } @rights) {
    my $name = 'no_' . substr $right, 1;
    push @names, $name;
    $redis->must('ACL', 'SETUSER', $name, 'on', '>pw', 'resetchannels', grep { $_ ne $right } @rights);
    push @blocks, "redis $name { server 127.0.0.1:$redis->{port}; timeout 500ms; key_prefix p; username $name; password pw; }\nban_zone \$arg_k zone=$name:1m redis=$name;\n";
}
my $least = free_port();
my $needy = gateway(http => "@blocks server { listen 127.0.0.1:$least; location /api { api write=on; allow 127.0.0.1; } }");
sleep 0.3;
for my $name (@names) {
    is status_of(api($least, 'POST', $name, '{"key": "k", "duration": 60}')), 201, "$name: banned here";
    is status_of(api($least, 'DELETE', "$name/k")), 204, "$name: lifted here";
    ok wait_until(5, sub { $needy->log =~ /\[error\] [^\n]*bans are not shared: [^\n]*redis "$name"/ }), "$name: and said not to be shared";
}
is scalar(() = $needy->log =~ /bans are not shared/g), scalar @names, 'each once';

for my $gateway (@gateways, $late, $needy) {
    ok $gateway->quit, 'a gateway ends';
    unlike $gateway->log, qr/\[(?:emerg|alert|crit)\]|panic|exited on signal/, 'nothing bad in its log';
}
done_testing;
