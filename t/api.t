# api: the documents, as clients of NGINX Plus read them. What the tests of nginx-plus-go-client ask of a real NGINX Plus is asked
# here, as far as it is reading.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Run;
use JSON::PP;
use Test::More;

my ($port, $other) = (free_port(), free_port());
my $backend = backend(server => <<'CONF');
location / { return 200 hello; }
location /missing { return 404; }
location /teapot { return 418; }
location /close { return 444; }
location /cached { add_header Cache-Control max-age=60; return 200 cached; }
CONF
my $odd = "z\xff\"</script>";    # what somebody may call a zone
my @http = (http => <<"CONF", workers => 2);
proxy_cache_path cache keys_zone=http_cache:1m max_size=10m;
limit_req_zone \$binary_remote_addr zone=one:1m rate=1000r/s;
limit_req_zone \$binary_remote_addr 'zone=$odd:1m' rate=1000r/s;
limit_conn_zone \$binary_remote_addr zone=addr:1m;
rate_limit_zone \$arg_key zone=per_key:1m rate=2r/m burst=1;
upstream test { zone test 64k; server 127.0.0.1:$backend->{port}; server 127.0.0.1:$other weight=5 max_conns=7 max_fails=0 fail_timeout=1m backup; server 127.0.0.1:9 down; }
upstream test-drain { zone test-drain 64k; server 127.0.0.1:9001 drain; server 127.0.0.1:9002 slow_start=30s; server 127.0.0.1:9003 slow_start=1500ms route=left; }
upstream plain { server 127.0.0.1:$backend->{port}; }
upstream guarded { zone guarded 64k; server 127.0.0.1:9; circuit_breaker failures=2 open=1m; }
server {
    listen 127.0.0.1:$port;
    status_zone test;
    location /api { status_zone location_test; api write=on; allow 127.0.0.1; deny all; }
    location / { proxy_pass http://test; }
    location /test { proxy_pass http://test/; }
    location /plain { proxy_pass http://plain/; }
    location /cached { proxy_pass http://test; proxy_cache http_cache; limit_req zone=one burst=10 nodelay; limit_conn addr 10; }
    location /guarded { proxy_pass http://guarded; }
    location /limited { rate_limit zone=per_key nodelay; empty_gif; }
}
CONF
my $gateway = gateway(@http);

my %seen;    # every document, for what holds for all of them

# json($path): the document there.
sub json {
    my $path   = shift;
    my $answer = get($port, "/api/9/$path");
    is status_of($answer), 200, "GET $path" or diag $answer;
    $seen{$path} = body_of($answer);
    return decode_json(body_of($answer));
}
sub reset_ok { my $path = shift; is status_of(get($port, "/api/9/$path", method => 'DELETE')), 204, "DELETE $path" }

# is_missing($path, $code): there is no such thing.
sub is_missing {
    my ($path, $code, $status) = @_;
    my $answer = get($port, "/api/9/$path");
    is_deeply [ status_of($answer), eval { decode_json(body_of($answer))->{error}{code} } ], [ $status || 404, $code ], "$path: $code";
}
sub keys_of { join ' ', sort keys %{ $_[0] } }

# The members of the first object in a document, in their order.
sub order { my $text = shift; my @names; my $deep = 0; while ($text =~ /([{}\[\]])|"((?:[^"\\]|\\.)*)"(:)?/g) { $deep += { '{' => 1, '}' => -1 }->{$1} || 0 if $1; push @names, $2 if $3 && $deep == 1; last if $1 && $1 eq '}' && !$deep } return join ' ', @names }

# --- traffic
get($port, '/') for 1 .. 7;
get($port, '/missing') for 1 .. 3;
get($port, '/teapot');
get($port, '/plain/close');
get($port, '/plain/');
get($port, '/cached') for 1 .. 4;
get($port, '/guarded') for 1 .. 3;
get($port, "/limited?key=a") for 1 .. 3;

# --- what runs here
is_deeply decode_json(body_of(get($port, '/api'))), [ 1 .. 9 ], 'versions';
is_deeply json(''), [qw(nginx processes connections slabs http resolvers ssl workers license events)], 'endpoints: no stream';
my $nginx = json('nginx');
is order($seen{nginx}), 'version build address generation load_timestamp timestamp pid ppid', 'nginx: members';
like $nginx->{version}, qr/^1\.\d+\.\d+$/, 'version';
like $nginx->{build}, qr/^sluice-\d+\.\d+\.\d+-r33$/, 'build: ours, with the number clients look for';
is $nginx->{address}, '127.0.0.1', 'address';
is $nginx->{generation}, 1, 'generation';
like $nginx->{$_}, qr/^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/, $_ for qw(load_timestamp timestamp);
cmp_ok $nginx->{load_timestamp}, 'le', $nginx->{timestamp}, 'loaded before now';
is $nginx->{ppid}, $gateway->{pid}, 'ppid: the master';
ok scalar(grep { $_ == $nginx->{pid} } $gateway->workers), 'pid: a worker';

is_deeply json('license'), { eval => JSON::PP::false, active_till => 253402300799 }, 'a license that does not end';
is_deeply json('processes'), { respawned => 0 }, 'processes';
my $connections = json('connections');
is keys_of($connections), 'accepted active dropped idle', 'connections: members';
cmp_ok $connections->{accepted}, '>=', 20, 'accepted';
cmp_ok $connections->{active}, '>=', 1, 'active: at least this one';
is_deeply json('ssl'), { handshakes => 0, handshakes_failed => 0, session_reuses => 0 }, 'ssl';
is_deeply json('resolvers'), {}, 'resolvers';

my $workers = json('workers');
is_deeply [ map { $_->{id} } @$workers ], [ 0, 1 ], 'workers: an array';
my %child = map { $_ => 1 } $gateway->workers;    # the cache's manager among them
is scalar(grep { $child{ $_->{pid} } } @$workers), 2, 'their processes';
my $total = 0;
$total += $_->{http}{requests}{total} for @$workers;
cmp_ok $total, '>=', 20, 'their requests';
is_deeply json('workers?fields=id'), [ { id => 0 }, { id => 1 } ], 'fields of workers';
is json('workers/1')->{id}, 1, 'one of them';

my $slabs = json('slabs');
cmp_ok $slabs->{test}{pages}{used}, '>=', 1, 'slabs: pages';
ok exists $slabs->{test}{slots}{8} && exists $slabs->{test}{slots}{1024}, 'slots by size';
is keys_of($slabs->{test}{slots}{128}), 'fails free reqs used', 'a slot';
is_deeply json('slabs/test'), $slabs->{test}, 'one zone';

# --- the http block
is_deeply json('http'), [qw(requests server_zones location_zones caches limit_conns limit_reqs keyvals upstreams rate_limits circuit_breakers bans)], 'http';
my $requests = json('http/requests');
cmp_ok $requests->{total}, '>=', 23, 'requests';
cmp_ok $requests->{current}, '>=', 1, 'at this moment: this one';

my $zone = json('http/server_zones')->{test};
is order($seen{'http/server_zones'} =~ /:(\{.*)\}$/s), 'processing requests responses discarded received sent', 'server zone: members';
is order($seen{'http/server_zones'} =~ /"responses":(\{.*)/s), '1xx 2xx 3xx 4xx 5xx codes total', 'responses: members';
is_deeply [ @{ $zone->{responses}{codes} }{qw(404 418)} ], [ 3, 1 ], 'codes';
cmp_ok $zone->{responses}{codes}{200}, '>=', 1, 'code 200';
is $zone->{responses}{total}, $zone->{responses}{'1xx'} + $zone->{responses}{'2xx'} + $zone->{responses}{'3xx'} + $zone->{responses}{'4xx'} + $zone->{responses}{'5xx'}, 'total';
is $zone->{processing}, 1, 'processing: this one';
my $location = json('http/location_zones')->{location_test};
is order($seen{'http/location_zones'} =~ /:(\{.*)\}$/s), 'requests responses discarded received sent', 'location zone: members';
cmp_ok $location->{requests}, '>=', 10, 'requests to the API itself';
is json('http/location_zones/location_test')->{responses}{codes}{404}, undef, 'one zone';
is_deeply json('http/server_zones?fields=discarded'), { test => { discarded => 0 } }, 'fields of zones';
is_deeply json('http/server_zones?fields='), ['test'], 'no fields: names';
is keys_of(json('http/server_zones/test?fields=sent,received')), 'received sent', 'fields of one';

my $cache = json('http/caches')->{http_cache};
is order($seen{'http/caches'} =~ /:(\{.*)\}$/s), 'size max_size cold hit stale updating revalidated miss expired bypass', 'cache: members';
is $cache->{max_size}, 10 * 1024 * 1024, 'max_size';
is_deeply [ $cache->{miss}{responses}, $cache->{hit}{responses}, $cache->{miss}{responses_written} ], [ 1, 3, 1 ], 'miss and hit';
is keys_of($cache->{hit}), 'bytes responses', 'hit: members';
is keys_of($cache->{expired}), 'bytes bytes_written responses responses_written', 'expired: members';
is_deeply json('http/limit_reqs')->{one}, { passed => 4, delayed => 0, rejected => 0, delayed_dry_run => 0, rejected_dry_run => 0 }, 'limit_reqs';
is_deeply json('http/limit_conns')->{addr}, { passed => 4, rejected => 0, rejected_dry_run => 0 }, 'limit_conns';
is_deeply json('http/keyvals'), {}, 'keyvals';

# --- upstreams
my $upstreams = json('http/upstreams');
is_deeply [ sort keys %$upstreams ], [qw(guarded plain test test-drain)], 'every upstream';
my $group = json('http/upstreams/test');
is order($seen{'http/upstreams/test'}), 'peers keepalive zombies zone', 'upstream: members';
is_deeply [ $group->{zone}, $group->{zombies}, $group->{keepalive} ], [ 'test', 0, 0 ], 'of the group';
is order($seen{'http/upstreams/test'} =~ /"peers":\[(\{.*)/s),
    'id server name backup weight state active requests header_time response_time response_time_hist responses sent received fails unavail health_checks downtime selected', 'peer: members in Plus\'s order';
my ($first, $down, $backup) = @{ $group->{peers} };
is_deeply [ map { $_->{id} } @{ $group->{peers} } ], [ 0, 1, 2 ], 'ids';
is_deeply [ @$first{qw(server name backup weight state active requests fails unavail downtime)} ],
    [ "127.0.0.1:$backend->{port}", "127.0.0.1:$backend->{port}", JSON::PP::false, 1, 'up', 0, 12, 0, 0, 0 ], 'the first';
is_deeply $first->{responses}, { '1xx' => 0, '2xx' => 8, '3xx' => 0, '4xx' => 4, '5xx' => 0, codes => { 200 => 8, 404 => 3, 418 => 1 }, total => 12 }, 'its responses';
is $first->{response_time_hist}{count}, 12, 'its times';
is keys_of($first->{response_time_hist}{buckets}), join(' ', sort qw(5 10 25 50 75 100 250 500 750 1000 2500 5000 7500 10000 inf)), 'buckets';
is_deeply $first->{health_checks}, { checks => 0, fails => 0, unhealthy => 0 }, 'no checks';
like $first->{selected}, qr/^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/, 'selected';
is_deeply [ @$down{qw(state requests selected)} ], [ 'down', 0, undef ], 'one that is down';
is_deeply [ $down->{because}, $first->{because} ], [ ['takes no traffic: it is down'], undef ], 'why one takes no traffic, and nothing of one that does';
is_deeply [ @$backup{qw(backup weight max_conns)} ], [ JSON::PP::true, 5, 7 ], 'a backup';
is $upstreams->{'test-drain'}{peers}[0]{state}, 'draining', 'one that drains';
is $upstreams->{plain}{zone}, undef, 'a group without a zone';
is_deeply [ @{ $upstreams->{plain}{peers}[0] }{qw(requests fails unavail state)} ], [ 2, 1, 0, 'up' ], 'is counted too: one server alone is never put aside';
is_deeply json('http/upstreams?fields=zone'), { test => { zone => 'test' }, 'test-drain' => { zone => 'test-drain' }, plain => {}, guarded => { zone => 'guarded' } }, 'fields of upstreams';

is_deeply json('http/upstreams/test/servers'), [
    { id => 0, server => "127.0.0.1:$backend->{port}", weight => 1, max_conns => 0, max_fails => 1, fail_timeout => '10s', slow_start => '0s', route => '', backup => JSON::PP::false, down => JSON::PP::false },
    { id => 1, server => '127.0.0.1:9', weight => 1, max_conns => 0, max_fails => 1, fail_timeout => '10s', slow_start => '0s', route => '', backup => JSON::PP::false, down => JSON::PP::true },
    { id => 2, server => "127.0.0.1:$other", weight => 5, max_conns => 7, max_fails => 0, fail_timeout => '60s', slow_start => '0s', route => '', backup => JSON::PP::true, down => JSON::PP::false },
], 'servers, with every default as clients compare it';
is order($seen{'http/upstreams/test/servers'} =~ /\[(\{.*)/s), 'id server weight max_conns max_fails fail_timeout slow_start route backup down', 'server: members';
my $drain = json('http/upstreams/test-drain/servers');
is_deeply [ map { $_->{drain} } @$drain ], [ JSON::PP::true, undef, undef ], 'drain only where it is';
is_deeply [ map { $_->{slow_start} } @$drain ], [qw(0s 30s 1500ms)], 'slow_start';
is $drain->[2]{route}, 'left', 'route';
is_deeply json('http/upstreams/test-drain/servers/1'), $drain->[1], 'one server';

# --- ours
my $limit = json('http/rate_limits')->{per_key};
is_deeply [ @$limit{qw(key algorithm rate burst sync redis on_error redis_state passed rejected)} ], [ '$arg_key', 'gcra', '2r/m', 1, 'off', undef, 'local', undef, 2, 1 ], 'a rate limit';
is_deeply $limit->{sources}, { local => 3, lease => 0, cache => 0, redis => 0, fallback => 0 }, 'who decided';
is_deeply [ keys_of($limit->{keys}), $limit->{keys}{evicted}, $limit->{keys}{capacity} > 1000 ], [ 'capacity evicted used', 0, 1 ], 'its keys';
is_deeply json('http/rate_limits/per_key'), $limit, 'one of them';
my $breaker = json('http/circuit_breakers')->{guarded};
is_deeply [ @$breaker{qw(scope state override attempts)} ], [ 'upstream', 'open', undef, 0 ], 'a breaker';
is_deeply [ @{ $breaker->{counters} }{qw(fail rejected opened)} ], [ 2, 1, 1 ], 'its counters';
is_deeply $breaker->{trips_at}, { failures => 2 }, 'its rules';
cmp_ok $breaker->{retry_after}, '>', 50, 'seconds until it tests again';
like $breaker->{reason}, qr/http_502|error/, 'why';
like $breaker->{changed}, qr/^20\d\d-.*Z$/, 'since when';
is json('http/circuit_breakers/guarded')->{state}, 'open', 'one of them';

# --- what is not there
is_missing(@$_)
    for [ 'slabs/none', 'SlabNotFound' ], [ 'workers/2', 'WorkerNotFound' ], [ 'workers/x', 'WorkerNotFound' ], [ 'resolvers/x', 'ResolverZoneNotFound' ],
    [ 'http/server_zones/none', 'ServerZoneNotFound' ], [ 'http/location_zones/test', 'LocationZoneNotFound' ], [ 'http/caches/one', 'CacheNotFound' ],
    [ 'http/limit_reqs/addr', 'LimitReqNotFound' ], [ 'http/limit_conns/one', 'LimitConnNotFound' ], [ 'http/keyvals/x', 'KeyvalNotFound' ],
    [ 'http/upstreams/random', 'UpstreamNotFound' ], [ 'http/upstreams/random/servers', 'UpstreamNotFound' ], [ 'http/upstreams/test/servers/99', 'UpstreamServerNotFound' ],
    [ 'http/upstreams/test/servers/x', 'UpstreamBadServerId', 400 ], [ 'http/upstreams/test/servers/-1', 'UpstreamBadServerId', 400 ],
    [ 'http/upstreams/test/servers/99999999999999999999999', 'UpstreamBadServerId', 400 ], [ 'http/upstreams/plain/servers', 'UpstreamStatic', 400 ],
    [ 'http/rate_limits/none', 'RateLimitNotFound' ], [ 'http/circuit_breakers/plain', 'CircuitBreakerNotFound' ], [ 'http/circuit_breakers/guarded/9', 'CircuitBreakerNotFound' ],
    [ 'stream', 'PathNotFound' ], [ 'stream/server_zones', 'PathNotFound' ], [ 'stream/zone_sync', 'PathNotFound' ], [ 'http/requests/x', 'PathNotFound' ],
    [ 'http/upstreams/test/peers', 'PathNotFound' ], [ 'http/server_zones/test/x', 'PathNotFound' ];

# --- names that somebody chose
my $text = body_of(get($port, '/api/9/http/limit_reqs'));
like $text, qr/"z\\\\xff\\"<\/script>":\{"passed":0/, 'a name that is not UTF-8 is written as text';
is status_of(get($port, '/api/9/http/limit_reqs/' . $_)), 200, "and found as $_" for 'z%ff%22%3c%2fscript%3e', 'z%5cxff%22%3c%2fscript%3e';

# --- every document
for my $path (sort keys %seen) {
    (my $bare = $seen{$path}) =~ s/"(?:[^"\\]|\\.)*"/""/g;
    unlike $bare, qr/-|\d\.|\d[eE]|null,"pid|\s/, "$path: whole numbers, none below 0";
}

# --- resets
reset_ok($_)
    for qw(processes connections ssl workers workers/0 slabs/test http/requests http/server_zones/test http/location_zones/location_test http/caches/http_cache http/limit_reqs/one
    http/limit_conns/addr http/upstreams/test http/rate_limits/per_key);
cmp_ok json('connections')->{accepted}, '<', 20, 'connections start again';
cmp_ok json('http/requests')->{total}, '<', 20, 'requests';
cmp_ok json('http/server_zones/test')->{requests}, '<', 20, 'a server zone';
cmp_ok json('http/location_zones/location_test')->{requests}, '<', 20, 'a location zone';
is json('http/caches/http_cache')->{hit}{responses}, 0, 'a cache';
is json('http/caches/http_cache')->{max_size}, 10 * 1024 * 1024, 'its size stays';
is json('http/limit_reqs/one')->{passed}, 0, 'a limit of requests';
is json('http/limit_conns/addr')->{passed}, 0, 'a limit of connections';
is json('http/rate_limits/per_key')->{passed}, 0, 'a rate limit';
my $again = json('http/upstreams/test')->{peers}[0];
is_deeply [ $again->{requests}, $again->{responses}{total}, $again->{id}, exists $again->{selected} ], [ 0, 0, 0, 1 ], 'servers: counters, not states';
is json('slabs/test')->{slots}{128}{reqs}, 0, 'slots';
is json('http/upstreams/plain')->{peers}[0]{requests}, 2, 'others go on';
is status_of(get($port, "/api/9/$_", method => 'DELETE')), 405, "no reset of $_" for qw(nginx slabs http http/upstreams http/server_zones http/caches resolvers license http/circuit_breakers);

# --- reload and a lost worker
get($port, '/') for 1 .. 5;
ok $gateway->reload(@http), 'reload';
$nginx = json('nginx');
is $nginx->{generation}, 2, 'generation counts on';
is_deeply [ map { $_->{id} } @{ json('http/upstreams/test')->{peers} } ], [ 0, 1, 2 ], 'ids stay';
is json('http/upstreams/test')->{peers}[0]{requests}, 5, 'counters stay';
is_deeply json('processes'), { respawned => 0 }, 'a reload replaces no worker';
my $victim = json('workers')->[0]{pid};
kill 'KILL', $victim;
ok wait_until(5, sub { my $now = decode_json(body_of(get($port, '/api/9/workers'))); @$now == 2 && !grep { $_->{pid} == $victim } @$now }), 'a killed worker is replaced';
ok wait_until(5, sub { body_of(get($port, '/api/9/processes')) eq '{"respawned":1}' }), 'which is counted';
is json('nginx')->{generation}, 2, 'generation is that of the configuration';

unlike $gateway->log, qr/panic|internal error|\[(?:emerg|crit)\]/, 'nothing bad in the log';
done_testing;
