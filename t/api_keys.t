# /http/rate_limits/ZONE/keys/KEY: where one key stands, why it is limited, and resetting it, here and in Redis.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Run;
use Sluice::Load;
use JSON::PP;
use Test::More;

my $redis = redis();
my ($port, $port2) = map { free_port() } 1 .. 2;

sub http {
    my $listen = shift;
    return <<"CONF";
redis main { server 127.0.0.1:$redis->{port}; timeout 500ms; breaker failures=1 open=200ms; }
rate_limit_zone \$http_authorization zone=local:1m rate=10r/m burst=2;
rate_limit_zone \$arg_k zone=strict:1m rate=6r/m algorithm=sliding_window redis=main;
rate_limit_zone \$arg_k zone=lease:1m rate=60r/m burst=4 redis=main sync=lease lease_time=5s;
rate_limit_zone \$arg_k zone=fixed:1m rate=3r/h algorithm=fixed_window redis=main;
rate_limit_zone \$arg_k zone=gcra:1m rate=6r/m burst=1 redis=main;
rate_limit_zone \$arg_k zone=several:1m rate=60r/m;
rate_limit_zone \$binary_remote_addr zone=bin:1m rate=5r/m burst=2;
rate_limit_zone \$binary_remote_addr zone=far:1m rate=5r/m burst=2 redis=main;
rate_limit_zone \$arg_k zone=variable:1m rate=\$arg_rate;
server {
    listen 127.0.0.1:$listen;
    location \@ok { return 200; }
    location /api { api write=on; allow 127.0.0.1; deny all; }
    location /read { api; }
    location /local { rate_limit zone=local nodelay; try_files /none \@ok; }
    location /strict { rate_limit zone=strict; try_files /none \@ok; }
    location /lease { rate_limit zone=lease nodelay; try_files /none \@ok; }
    location /fixed { rate_limit zone=fixed; try_files /none \@ok; }
    location /gcra { rate_limit zone=gcra nodelay; try_files /none \@ok; }
    location /loose { rate_limit zone=several burst=5 nodelay; try_files /none \@ok; }
    location /tight { rate_limit zone=several burst=1 nodelay; try_files /none \@ok; }
    location /bin { rate_limit zone=bin nodelay; rate_limit zone=far nodelay; try_files /none \@ok; }
    location /variable { rate_limit zone=variable nodelay; try_files /none \@ok; }
}
CONF
}
my ($gateway, $other) = map { gateway(workers => 2, http => http($_)) } $port, $port2;

# api($path, %request): status and document.
sub api {
    my ($path, %of) = @_;
    my $answer = get($of{port} || $port, "/api/9/http/rate_limits/$path", %of);
    return (status_of($answer), length body_of($answer) ? decode_json(body_of($answer)) : undef);
}

sub key {
    my ($status, $key) = api(@_);
    is $status, 200, "$_[0] is told" or diag explain $key;
    return $key || {};
}

# used($path, $n, %headers): the statuses of so many requests.
sub used {
    my ($path, $n, %of) = @_;
    my $to = delete $of{port} || $port;
    return join ' ', map { status_of(get($to, $path, %of)) } 1 .. $n;
}

# --- this host's shared memory
my $token = 'Bearer secret/with?odd&bytes%';
my $enc   = join '', map { sprintf '%%%02X', ord } split //, $token;
my $key   = key("local/keys/$enc");
is_deeply [ @$key{qw(limit burst remaining reset retry_after source)}, $key->{limited} ? 1 : 0 ], [ 10, 2, 3, 0, 0, 'local', 0 ], 'a key that nobody has used';
is $key->{why}, 'nothing is used of 3 at once and 10r/m after that', 'in words';
is used('/local', 2, Authorization => $token), '200 200', 'two requests';
$key = key("local/keys/$enc/");
is_deeply [ @$key{qw(remaining retry_after)}, $key->{limited} ? 1 : 0 ], [ 1, 0, 0 ], 'one is left';
is $key->{reset}, 12, 'all in twelve seconds';
like $key->{why}, qr/^1 left of 3 at once and 10r\/m after that; all are back in 1\d\.\d s$/, 'in words';
is used('/local', 2, Authorization => $token), '200 429', 'and one too many';
$key = key("local/keys/$enc");
is_deeply [ @$key{qw(remaining retry_after)}, $key->{limited} ? 1 : 0 ], [ 0, 6, 1 ], 'none is left';
like $key->{why}, qr/^no request is left of 3 at once and 10r\/m after that; the next one passes in [56]\.\d s$/, 'why I was limited';
is key("local/keys/$enc")->{remaining}, 0, 'to look costs nothing and brings nothing';
is_deeply [ api("local/keys/$enc", method => 'DELETE') ], [ 204, undef ], 'the key is reset';
is used('/local', 4, Authorization => $token), '200 200 200 429', 'and has all its quota again';
is_deeply [ api("local/keys/unknown", method => 'DELETE') ], [ 204, undef ], 'so is one that nobody knew';

# --- Redis
is used('/strict?k=a', 7), '200 200 200 200 200 200 429', 'a window in Redis is used up';
for my $at ($port, $port2) {
    $key = key('strict/keys/a', port => $at);
    is_deeply [ @$key{qw(remaining source)}, $key->{limited} ? 1 : 0 ], [ 0, 'redis', 1 ], 'as every gateway sees';
    cmp_ok $key->{retry_after}, '<=', 64, 'for a minute and a bucket';
    cmp_ok $key->{retry_after}, '>=', 1, 'at most';
}
my $held = sub { scalar @{ ask($redis->{port}, 'KEYS', '*:strict:*') } };
cmp_ok $held->(), '>=', 1, 'Redis holds it';
is_deeply [ api('strict/keys/a', method => 'DELETE', port => $port2) ], [ 204, undef ], 'one gateway resets it';
is $held->(), 0, 'Redis has forgotten it';
is used('/strict?k=a', 7, port => $port2), '200 200 200 200 200 200 429', 'and there it is full again';
for my $zone (['fixed', 3], ['gcra', 2], ['lease', 5]) {
    my ($name, $most) = @$zone;
    like used("/$name?k=b", $most + 1), qr/^(200 )+429$/, "$name is used up";
    is key("$name/keys/b")->{source}, 'redis', 'Redis tells';
    ok key("$name/keys/b")->{limited}, 'that it is';
    is_deeply [ api("$name/keys/b", method => 'DELETE') ], [ 204, undef ], 'it is reset';
    is key("$name/keys/b")->{remaining}, $most, 'and full';
    is status_of(get($port, "/$name?k=b")), 200, 'so a request passes';
}

# --- addresses, which nobody types as the bytes that they are
is used('/bin', 4), '200 200 200 429', 'a client is limited by its address';
for my $zone (qw(bin far)) {
    is_deeply [ @{ key("$zone/keys/127.0.0.1") }{qw(remaining)}, key("$zone/keys/127.0.0.1")->{limited} ? 1 : 0 ], [ 0, 1 ], "$zone: so says the API";
    is key("$zone/keys/127.0.0.2")->{remaining}, 3, 'of nobody else';
    is_deeply [ api("$zone/keys/127.0.0.1", method => 'DELETE') ], [ 204, undef ], 'it is reset';
}
is used('/bin', 4), '200 200 200 429', 'and has all its quota again';

# --- a zone that is used in several ways, and one whose rate is a variable
is used('/tight?k=c', 3), '200 200 429', 'two of a tight use';
$key = key('several/keys/c');
is_deeply [ @$key{qw(burst remaining)} ], [ 1, 0 ], 'the strictest use is told first';
is_deeply [ map { [ @$_{qw(burst remaining)} ] } @{ $key->{uses} } ], [ [ 1, 0 ], [ 5, 4 ] ], 'and then each';
is used('/variable?k=d&rate=1r/m', 2), '200 429', 'a variable rate';
is_deeply [ (api('variable/keys/d'))[0], (api('variable/keys/d'))[1]{error}{code} ], [ 400, 'RateLimitFormatError' ], 'has to be said';
ok key('variable/keys/d?rate=1r/m')->{limited}, 'then it is told';
is((api('variable/keys/d?rate=fast'))[0], 400, 'a rate that is none');
is_deeply [ api('variable/keys/d', method => 'DELETE') ], [ 204, undef ], 'to reset takes none';
is used('/variable?k=d&rate=1r/m', 1), '200', 'and works';

# --- what is refused
is((api('nothing/keys/a'))[1]{error}{code}, 'RateLimitNotFound', 'no such zone');
is((api('local/keys'))[1]{error}{code}, 'PathNotFound', 'keys are not listed');
is((api('local/keys/a/b'))[1]{error}{code}, 'PathNotFound', 'nothing lies below a key');
is((api('local/keys/a', method => $_))[0], 405, "$_ is not for keys") for qw(POST PATCH);
is status_of(get($port, '/read/9/http/rate_limits/local/keys/a', method => 'DELETE')), 405, 'where nobody may write nobody resets';
is status_of(get($port, '/read/9/http/rate_limits/local/keys/a')), 200, 'but looks';

# --- Redis is lost, or silent
used('/strict?k=e', 3);
$redis->signal('STOP');
$key = key('strict/keys/e');
is $key->{source}, 'fallback', 'then this host tells what it knows';
like $key->{why}, qr/^redis gave no answer, and this host knows: 3 left of 6r\/m/, 'and that it does';
my ($status, $failure) = api('strict/keys/e', method => 'DELETE');
is_deeply [ $status, $failure->{error}{code} ], [ 503, 'RedisUnavailable' ], 'a reset that did not reach Redis says so';
$redis->signal('CONT');
ok wait_until(5, sub { (api('strict/keys/e'))[1]{source} eq 'redis' }), 'Redis is back';

# --- nothing is said of the key itself
my $events = body_of(get($port, '/api/9/events'));
like $events, qr/a key was reset, by 127\.0\.0\.1/, 'a reset is an event';
unlike $events . $gateway->log, qr/secret/, 'and neither it nor the log names the key';
unlike $gateway->log, qr/\[(alert|emerg|crit)\]/, 'nothing untoward in the log' or diag $gateway->log;
done_testing();
