# api: prometheus-nginx-exporter, made for NGINX Plus, reads this gateway, and its numbers are what was sent.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Run;
use Test::More;

my ($exporter) = grep { -x } map {"$_/prometheus-nginx-exporter"} split /:/, $ENV{PATH};
plan skip_all => 'no prometheus-nginx-exporter: scripts/setup installs it' unless $exporter;

my ($port, $api, $scraped, $dead) = map { free_port() } 1 .. 4;
my ($one, $two) = map { backend(server => "location / { return 200 $_; } location /missing { return 404; } location /broken { return 500; }") } 1, 2;
my $gateway = gateway(workers => 2, http => <<"CONF");
proxy_cache_path cache keys_zone=store:1m max_size=10m;
limit_req_zone \$binary_remote_addr zone=reqs:1m rate=1r/m;
limit_conn_zone \$binary_remote_addr zone=conns:1m;
upstream app { zone app 64k; server 127.0.0.1:$one->{port} max_conns=9; server 127.0.0.1:$two->{port}; }
upstream spare { zone spare 64k; server 127.0.0.1:$one->{port} down; server 127.0.0.1:$two->{port} backup; server 127.0.0.1:$dead drain; }
server {
    listen 127.0.0.1:$port;
    status_zone site;
    location / { status_zone pages; proxy_pass http://app; }
    location /cached { status_zone cached; proxy_pass http://spare/; proxy_cache store; proxy_cache_valid 1m; }
    location /once { status_zone once; limit_req zone=reqs; limit_conn conns 9; empty_gif; }
}
server { listen 127.0.0.1:$api; location /api { api; } }
CONF

get($port, '/')        for 1 .. 10;
get($port, '/missing') for 1 .. 4;
get($port, '/broken')  for 1 .. 2;
get($port, '/cached')  for 1 .. 3;
get($port, '/once')    for 1 .. 3;

my $log = "$gateway->{dir}/exporter.log";
my $pid = Sluice::Run::run('sh', '-c', "exec $exporter -nginx.plus -nginx.scrape-uri=http://127.0.0.1:$api/api -web.listen-address=127.0.0.1:$scraped >$log 2>&1");
sub said { open my $file, '<', $log or return ''; local $/; return scalar <$file> // '' }
ok wait_until(10, sub { status_of(get($scraped, '/metrics')) == 200 }), 'it starts' or diag said();

my %metric;
sub scrape {
    my $answer = `curl -sS -m 10 http://127.0.0.1:$scraped/metrics 2>&1`;
    is $?, 0, 'a scrape' or diag $answer;
    %metric = map { /^(nginxplus_\S+?(?:\{.*\})?) (\S+)$/ ? ($1 => 0 + $2) : () } split /\n/, $answer;
}
scrape();

my $app = sub {"{server=\"127.0.0.1:$_[0]\",upstream=\"$_[1]\"}"};
my %expected = (
    'nginxplus_up'                                                 => 1,
    'nginxplus_connections_dropped'                                => 0,
    'nginxplus_location_zone_requests{location_zone="pages"}'      => 16,
    'nginxplus_location_zone_requests{location_zone="cached"}'     => 3,
    'nginxplus_location_zone_responses{code="2xx",location_zone="pages"}' => 10,
    'nginxplus_location_zone_responses{code="4xx",location_zone="pages"}' => 4,
    'nginxplus_location_zone_responses{code="5xx",location_zone="pages"}' => 2,
    'nginxplus_location_zone_responses{code="2xx",location_zone="once"}'  => 1,
    'nginxplus_location_zone_responses{code="5xx",location_zone="once"}'  => 2,
    'nginxplus_server_zone_responses{code="4xx",server_zone="site"}'      => 4,
    'nginxplus_server_zone_discarded{server_zone="site"}'                 => 0,
    'nginxplus_upstream_server_state' . $app->($one->{port}, 'app')       => 1,
    'nginxplus_upstream_server_limit' . $app->($one->{port}, 'app')       => 9,
    'nginxplus_upstream_server_requests' . $app->($one->{port}, 'app')    => 8,
    'nginxplus_upstream_server_requests' . $app->($two->{port}, 'app')    => 8,
    'nginxplus_upstream_server_active' . $app->($two->{port}, 'app')      => 0,
    'nginxplus_upstream_server_state' . $app->($one->{port}, 'spare')     => 3,
    'nginxplus_upstream_server_state' . $app->($dead, 'spare')            => 2,
    'nginxplus_upstream_server_requests' . $app->($two->{port}, 'spare')  => 1,
    'nginxplus_upstream_zombies{upstream="app"}'                          => 0,
    'nginxplus_cache_max_size{zone="store"}'                              => 10 * 1024 * 1024,
    'nginxplus_cache_miss_responses{zone="store"}'                        => 1,
    'nginxplus_cache_hit_responses{zone="store"}'                         => 2,
    'nginxplus_limit_request_passed{zone="reqs"}'                         => 1,
    'nginxplus_limit_request_rejected{zone="reqs"}'                       => 2,
    'nginxplus_limit_connection_passed{zone="conns"}'                     => 1,
);
# What the Debian package's version does not have yet.
my %newer = map { $_ => 1 } grep { /_cache_|_worker_/ && !exists $metric{$_} } keys %expected;
for my $name (sort keys %expected) {
SKIP: {
        skip "$name: this exporter does not have it", 1 if $newer{$name};
        is $metric{$name}, $expected{$name}, $name;
    }
}
cmp_ok $metric{nginxplus_http_requests_total},    '>=', 22, 'requests';
cmp_ok $metric{nginxplus_connections_accepted},   '>=', 22, 'connections';
cmp_ok $metric{nginxplus_connections_active},     '>=', 1,  'connections now';
cmp_ok $metric{'nginxplus_server_zone_sent{server_zone="site"}'}, '>', 1000, 'bytes sent';

# What a second scrape sees is what happened between.
get($port, '/') for 1 .. 5;
my $before = $metric{'nginxplus_location_zone_requests{location_zone="pages"}'};
scrape();
is $metric{'nginxplus_location_zone_requests{location_zone="pages"}'}, $before + 5, 'five requests more';

ok $gateway->reload, 'reload';
scrape();
is $metric{nginxplus_up}, 1, 'after a reload it reads on';
is $metric{'nginxplus_location_zone_requests{location_zone="pages"}'}, $before + 5, 'and counters have not gone back';
unlike said(), qr/[Ee]rror|[Ww]arn|[Ff]ailed/, 'it has nothing to complain of';

$gateway->quit('TERM');
scrape();
is $metric{nginxplus_up}, 0, 'without a gateway it is not up';
Sluice::Run::finish($pid);
done_testing;
