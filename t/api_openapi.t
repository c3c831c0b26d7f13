# api: every answer of the running module is what docs/openapi.yaml says, to requests that schemathesis makes up from it: right ones,
# wrong ones, and sequences of them. The same ones each time.
use strict;
use warnings;
use lib 't/lib';
use Cwd 'abs_path';
use Sluice::Run;
use Test::More;

my $schemathesis = abs_path('target/schemathesis/bin/schemathesis');
plan skip_all => 'no schemathesis: scripts/setup installs it' unless $schemathesis && -x $schemathesis;
my $description = abs_path('docs/openapi.yaml');

my ($port, $api) = (free_port(), free_port());
my $backend = backend(server => 'location / { return 200 hello; } location /broken { return 500; }');
my $gateway = gateway(workers => 2, http => <<"CONF");
proxy_cache_path cache keys_zone=store:1m max_size=10m;
limit_req_zone \$binary_remote_addr zone=reqs:1m rate=1r/s;
ban_zone \$binary_remote_addr zone=abuse:1m;
limit_conn_zone \$binary_remote_addr zone=conns:1m;
rate_limit_zone \$arg_key zone=limits:1m rate=1r/m redis=main;
redis main { server 127.0.0.1:$ENV{TEST_SLUICE_REDIS_PORT}; timeout 5s; }
upstream app {
    zone app 64k;
    server 127.0.0.1:$backend->{port} max_conns=9 route=a;
    server 127.0.0.1:9 backup;
    circuit_breaker failures=5;
    circuit_breaker scope=peer failures=2;
}
server {
    listen 127.0.0.1:$port;
    status_zone site;
    location / { status_zone pages; proxy_pass http://app; proxy_cache store; proxy_cache_valid 200 1m; limit_conn conns 9; }
    location /limited { rate_limit zone=limits nodelay; limit_req zone=reqs; empty_gif; }
    location /route { circuit_breaker checkout; proxy_pass http://127.0.0.1:$backend->{port}; }
}
server { listen 127.0.0.1:$api; client_body_buffer_size 1m; location /api { api write=on; allow 127.0.0.1; deny all; } }
CONF

get($port, $_) for ('/', '/broken', '/route', '/limited?key=a') x 3;

get($api, '/api/9/http/bans/abuse', method => 'POST', 'Content-Type' => 'application/json', body => '{"key":"192.0.2.9","duration":"1h"}');

# What there is, so that not all that is asked for is missing.
my $dir = $gateway->{dir};
Sluice::Run::spew("$dir/schemathesis.toml", <<'CONF');
[phases.coverage]
unexpected-methods = ["PATCH", "PUT", "POST", "DELETE", "OPTIONS"]  # TRACE is refused by nginx itself

[parameters]
"path.upstream" = "app"
"path.breaker" = "app"
"path.id" = 0

"query.wait" = 0

[[operations]]
include-name = "DELETE /http/upstreams/{upstream}/servers/{id}"
parameters = { "path.id" = 1 }
[[operations]]
include-path-regex = "^/slabs/"
parameters = { "path.zone" = "app" }
[[operations]]
include-path-regex = "^/http/server_zones/"
parameters = { "path.zone" = "site" }
[[operations]]
include-path-regex = "^/http/location_zones/"
parameters = { "path.zone" = "pages" }
[[operations]]
include-path-regex = "^/http/caches/"
parameters = { "path.zone" = "store" }
[[operations]]
include-path-regex = "^/http/limit_reqs/"
parameters = { "path.zone" = "reqs" }
[[operations]]
include-path-regex = "^/http/limit_conns/"
parameters = { "path.zone" = "conns" }
[[operations]]
include-path-regex = "^/http/bans/"
parameters = { "path.zone" = "abuse", "path.key" = "192.0.2.9" }
[[operations]]
include-path-regex = "^/http/rate_limits/"
parameters = { "path.zone" = "limits" }
# What is right by itself may be wrong here: another address, two of one, an nginx that cannot add servers.
[[operations]]
include-path-regex = "/servers|/bans"
[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", 400, 403, 404, 409, 503]
CONF

# ignored_auth: there is none. use_after_free: DELETE takes counters back, and nothing away.
my @command = ($schemathesis, '--config-file', "$dir/schemathesis.toml", 'run', $description, '--url', "http://127.0.0.1:$api/api/9", '--no-color', '--checks', 'all',
    '--exclude-checks', 'ignored_auth,use_after_free,ensure_resource_availability', '--max-examples', 10, '--seed', 1, '--request-timeout', 10);
my $said = do {
    local $ENV{PYTHONDONTWRITEBYTECODE} = 1;
    my $quoted = join ' ', map {"'$_'"} @command;
    `cd $dir && $quoted 2>&1`;
};
is $? >> 8, 0, 'every answer is as described' or diag $said;
my ($selected, $tested, $cases) = ($said =~ m{Selected: (\d+)/}, $said =~ m{Tested: (\d+)}, $said =~ m{(\d+) generated});
cmp_ok $tested // 0, '>=', 62, 'all operations were tried';
is $tested, $selected, 'none was left out';
cmp_ok $cases // 0, '>=', 300, 'with many requests';
# A server that was taken out is not there the next time.
my ($missing) = $said =~ /^Missing test data.*?\n\n(.*?)\n\n/ms;
is join(' ', grep { !m{^  - DELETE /http/upstreams/\{upstream\}/servers/\{id\}$} } split /\n/, $missing // ''), '', 'and found what they asked for';

is status_of(get($api, '/api/9/nginx')), 200, 'it goes on';
unlike $gateway->log, qr/panic|internal error|\[(?:emerg|crit|alert)\]/, 'nothing bad in the log';
done_testing;
