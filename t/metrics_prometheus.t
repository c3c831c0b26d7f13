# metrics, scraped by a real Prometheus: what it stores is what was sent, and alert rules fire: ours, and those that people
# bring along from an exporter or from an application behind the gateway.
use strict;
use warnings;
use lib 't/lib';
use File::Temp ();
use JSON::PP   ();
use Sluice::Run;
use Test::More;

my ($promtool, $prometheus) = map { my $tool = $_; (grep {-x} map {"$_/$tool"} split /:/, $ENV{PATH})[0] } qw(promtool prometheus);
$prometheus or die "no prometheus: run scripts/setup\n";

# The rules of a gateway behind nginx-prometheus-exporter, and of an application with names of its own (docs/aliases.yml).
my %brought = (
    exporter => [
        [ HighErrorRate     => 'rate(nginx_http_requests_total{status=~"5.."}[5m]) > 0.05' ],
        [ GatewayDown       => 'up{job="nginx"} == 0' ],
        [ HighLatency       => 'histogram_quantile(0.95, rate(nginx_http_request_duration_seconds_bucket[5m])) > 1.5' ],
        [ UpstreamUnhealthy => 'nginx_upstream_server_fails_total > 10' ],
        [ BackendDown       => 'up{job=~"admin-backend|customer-backend"} == 0' ],
    ],
    application => [
        [ HighErrorRate          => 'sum(rate(http_requests_total{status=~"5.."}[5m])) / sum(rate(http_requests_total[5m])) > 0.05' ],
        [ HighLatency            => 'histogram_quantile(0.95, sum(rate(http_request_duration_seconds_bucket[5m])) by (le)) > 0.5' ],
        [ HighRateLimitRate      => 'sum(rate(rateguard_rate_limit_exceeded_total[5m])) > 0.01' ],
        [ RedisConnectionFailure => 'redis_up == 0' ],
    ],
);

sub rules {
    my $text = "groups:\n";
    for my $group (sort keys %brought) {
        $text .= "  - name: $group\n    interval: 200ms\n    rules:\n";
        $text .= "      - alert: $_->[0]\n        expr: '$_->[1]'\n" for @{ $brought{$group} };
    }
    return $text;
}

# ours($name): one of docs/, made quick for a test.
sub ours {
    my $name = shift;
    open my $file, '<', "docs/$name.yml" or die "docs/$name.yml: $!\n";
    my $text = do { local $/; <$file> };
    $text =~ s/^( +)for: .*/$1for: 0s/mg;
    $text =~ s/^(  - name: .*)/$1\n    interval: 200ms/mg;
    return $text;
}

for my $name (qw(alerts aliases)) {
    my $said = `$promtool check rules --lint=all --lint-fatal docs/$name.yml 2>&1`;
    is $?, 0, "promtool accepts docs/$name.yml" or diag $said;
}

my ($port, $own, $up, $none) = map { free_port() } 1 .. 4;
my $backend = backend(port => $up, server => 'location / { return 200; } location /broken { return 503; }');
my $gateway = gateway(workers => 2, http => <<"HTTP");
redis lost { server 127.0.0.1:$none; }
rate_limit_zone \$server_port zone=api:64k rate=3r/h algorithm=fixed_window;
upstream up { server 127.0.0.1:$up; health_check interval=100ms; circuit_breaker failures=30 window=10m open=1h; }
upstream dead { server 127.0.0.1:$none; }
server {
    listen 127.0.0.1:$port;
    location / { proxy_pass http://up; }
    location /dead { proxy_pass http://dead; }
    location /limited { rate_limit zone=api; empty_gif; }
}
log_format scrape '\$sent_http_content_type';
server { listen 127.0.0.1:$own; access_log logs/scrapes scrape; location /metrics { metrics; } }
HTTP

my $dir = File::Temp::tempdir(CLEANUP => 1);
my %file = (rules => rules(), alerts => ours('alerts'), aliases => ours('aliases'));
Sluice::Run::spew("$dir/$_.yml", $file{$_}) for keys %file;
Sluice::Run::spew("$dir/prometheus.yml", <<"YAML");
global: { scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms }
rule_files: [ rules.yml, alerts.yml, aliases.yml ]
scrape_configs:
  - job_name: nginx
    static_configs: [ { targets: [ '127.0.0.1:$own' ], labels: { service: gateway } } ]
YAML
my $api = free_port();
my $pid = Sluice::Run::run($prometheus, "--config.file=$dir/prometheus.yml", "--storage.tsdb.path=$dir/data",
    "--web.listen-address=127.0.0.1:$api", '--log.level=error');

sub asked {
    my $path = shift;
    my $said = body_of(get($api, "/api/v1/$path"));
    $said = join '', map { /^[0-9a-f]+\r\n\z/i ? () : $_ } split /(?<=\r\n)/, $said if $said =~ /^[0-9a-f]+\r\n/i;
    my $data = eval { JSON::PP::decode_json($said) } or return;
    return $data->{status} eq 'success' ? $data->{data} : undef;
}

# query($expr): its values; of one series that is one number.
sub query {
    my $expr = shift;
    $expr =~ s/([^A-Za-z0-9_.-])/sprintf '%%%02X', ord $1/ge;
    my $data = asked("query?query=$expr") or return;
    return map { $_->{value}[1] } @{ $data->{result} };
}

ok wait_until(30, sub { (query('up{job="nginx"}'))[0] // 0 }), 'Prometheus has scraped the gateway'
    or die 'Prometheus did not start, or cannot scrape: ', explain(asked('targets'));
sub becomes {
    my ($expr, $value) = @_;
    my $got;
    wait_until(10, sub { ($got) = query($expr); defined $got && $got == $value });
    is $got, $value, $expr;
}

# It stores what was sent.
get($port, '/') for 1 .. 7;
get($port, '/broken') for 1 .. 29;
get($port, '/dead') for 1 .. 12;
get($port, '/limited') for 1 .. 8;
becomes('nginx_http_requests_total{status="503"}',                                 29);
becomes('nginx_http_requests_total{status="502"}',                                 12);
becomes('nginx_http_requests_total{status="429"}',                                 5);
becomes('nginx_rate_limit_allowed_total{zone="api"}',                              3);
becomes('nginx_rate_limit_exceeded_total{zone="api",service="gateway"}',           5);
becomes('sum(nginx_upstream_responses_total{upstream="up"})',                      36);
becomes('nginx_upstream_responses_total{upstream="up",code_class="5xx"}',          29);
becomes('nginx_upstream_server_fails_total{upstream="dead"}',                      12);
becomes('nginx_upstream_response_time_seconds_bucket{upstream="up",le="+Inf"}',    36);
becomes('nginx_circuit_breaker_state{upstream="up",state="open"}',                 0);
becomes('sum(nginx_circuit_breaker_state{upstream="up"})',                         1);
get($port, '/broken') for 1 .. 2;
becomes('nginx_circuit_breaker_state{upstream="up",state="open"}',                 1);
becomes('nginx_circuit_breaker_rejected_total{upstream="up",cause="open"}',        1);
becomes('sum(nginx_upstream_peer_state{upstream="up"})',                           1);
is_deeply [ query('count(nginx_upstream_peer_state{upstream="up"})') ], [10], 'all states are there';

# Prometheus asks for OpenMetrics, and knows of each family what it is.
{
    open my $log, '<', "$gateway->{dir}/logs/scrapes" or die "scrapes: $!\n";
    my %types = map { $_ => 1 } <$log>;
    is "@{[ keys %types ]}", "application/openmetrics-text; version=1.0.0; charset=utf-8\n", 'scraped as OpenMetrics';
    my $all = asked('metadata');
    my %of = map { $_ => $all->{$_}[0] } grep {/^nginx/} keys %$all;
    is scalar(grep { $_->{help} eq '' || $_->{type} eq 'unknown' } values %of), 0, 'all of them explained';
    is $of{nginx_http_request_duration_seconds}{type}, 'histogram', 'a histogram';
    is $of{nginx_http_request_duration_seconds}{unit}, 'seconds', 'with its unit';
    is $of{nginx_http_requests_total}{type} // $of{nginx_http_requests}{type}, 'counter', 'a counter';
    is $of{nginx_circuit_breaker_state}{type}, 'gauge', 'a gauge';
}

# Every rule can be evaluated, and those fire that should.
sub groups { my $rules = asked('rules') or return; return @{ $rules->{groups} } }
sub alerts { my $group = shift; return map { $_->{name} => $_ } map { @{ $_->{rules} } } grep { $_->{name} =~ /^$group/ } groups() }
{
    ok wait_until(15, sub { my @rules = map { @{ $_->{rules} } } groups(); @rules && !grep { $_->{health} eq 'unknown' } @rules }), 'all rules were evaluated';
    my @rules = map { @{ $_->{rules} } } groups();
    is scalar(grep { $_->{health} ne 'ok' } @rules), 0, 'and none is wrong' or diag explain [ grep { $_->{health} ne 'ok' } @rules ];
    cmp_ok scalar(@rules), '>=', 30, 'there are some';
    for my $row ([ exporter => qw(HighErrorRate UpstreamUnhealthy) ], [ application => qw(HighErrorRate HighRateLimitRate RedisConnectionFailure) ],
        [ sluice => qw(HighErrorRate CircuitBreakerOpen RedisLost) ])
    {
        my ($group, @names) = @$row;
        for my $name (@names) {
            get($port, '/limited') for $name eq 'HighRateLimitRate' ? (1 .. 8) : ();
            ok wait_until(10, sub { my %alerts = alerts($group); ($alerts{$name}{state} // '') eq 'firing' }), "$group: $name fires";
        }
    }
    for my $row ([ exporter => qw(GatewayDown HighLatency) ], [ sluice => qw(GatewayDown HighLatency UpstreamPanic HealthCheckOverdue UpstreamZoneNearlyFull MetricsDropped WorkerDied ConnectionsDropped) ]) {
        my ($group, @names) = @$row;
        my %alerts = alerts($group);
        is $alerts{$_}{state}, 'inactive', "$group: $_ does not" for @names;
    }
    my %alerts = alerts('exporter');
    is $alerts{UpstreamUnhealthy}{alerts}[0]{labels}{upstream}, 'dead', 'and says which';
}

# Counters survive a reload, as Prometheus sees it; a gateway that is gone is noticed.
{
    ok $gateway->reload, 'reload';
    becomes('nginx_http_requests_total{status="502"}', 12);
    is_deeply [ query('resets(nginx_http_requests_total{status="502"}[5m])') ], [0], 'no counter began again';
    $gateway->stop;
    ok wait_until(15, sub { my %alerts = alerts('sluice'); ($alerts{GatewayDown}{state} // '') eq 'firing' }), 'sluice: GatewayDown fires';
}
unlike $gateway->log, qr/\[(?:emerg|alert|crit)\]|internal error/, 'nothing bad in the log';

done_testing;
