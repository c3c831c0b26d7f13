# metrics: both formats are sound to those who read them for a living, and every number is what was sent.
use strict;
use warnings;
use lib 't/lib';
use File::Temp ();
use Sluice::Run;
use Test::More;

my ($python) = grep {`$_ -c 'import prometheus_client' 2>&1` eq ''} '/usr/bin/python3', 'python3' or die "no prometheus_client for python3: run scripts/setup\n";
my $promtool = 'promtool';
my %open = (Accept => 'application/openmetrics-text');

# piped($text, @command): (exit status, what it printed) of a command that reads $text.
sub piped {
    my ($text, @command) = @_;
    my $file = File::Temp->new;
    print {$file} $text;
    close $file;
    my $said = `@command < @{[ $file->filename ]} 2>&1`;
    return ($? >> 8, $said);
}

# parsed($own, %headers): name{labels} => value, as Prometheus's own parsers for Python read it, which are strict.
sub parsed {
    my ($own, %headers) = @_;
    my $module = $headers{Accept} ? 'prometheus_client.openmetrics.parser' : 'prometheus_client.parser';
    my $program = "import sys; from $module import text_string_to_metric_families as read; "
        . 'f = list(read(sys.stdin.read())); names = [x.name for x in f]; assert len(names) == len(set(names)); '
        . '[print(s.name + chr(123) + chr(44).join(k + chr(61) + v for k, v in sorted(s.labels.items())) + chr(125), float(s.value)) for x in f for s in x.samples]';
    my ($status, $said) = piped(body_of(get($own, '/metrics', %headers)), $python, '-c', "'$program'");
    $status == 0 or diag $said;
    return +{ map { /^(.*) (\S+)$/ ? ($1 => $2) : () } split /\n/, $said };
}
sub value { my ($all, $series) = @_; return exists $all->{$series} ? $all->{$series} + 0 : undef }

my ($port, $own, $one, $two, $none) = map { free_port() } 1 .. 5;
my $backend = gateway(load => '', http => join '', map { <<"SERVER" } $one, $two);
server {
    listen 127.0.0.1:$_;
    location / { return 200 ok; }
    location /missing { return 404; }
    location /broken { return 502; }
    location /health { if (-f \$document_root/sick-$_) { return 503; } return 204; }
}
SERVER
sub mark { Sluice::Run::spew("$backend->{dir}/html/sick-$_[0]", 'x') }

my $http = <<"HTTP";
redis lost { server 127.0.0.1:$none; }
rate_limit_zone \$arg_k zone=api:64k rate=3r/h algorithm=fixed_window;
rate_limit_zone \$arg_k zone=far:64k rate=3r/h redis=lost;
limit_req_zone \$arg_k zone=core:64k rate=1r/m;
ban_zone \$arg_banned zone=out:64k;
upstream pair {
    zone pair 128k;
    server 127.0.0.1:$one; server 127.0.0.1:$two; server 127.0.0.1:$two; server 127.0.0.1:$none backup;
    circuit_breaker failures=2 open=1h;
    circuit_breaker scope=peer failures=9;
    health_check uri=/health interval=100ms fails=2;
    panic_threshold 60% mode=all;
}
upstream only { server 127.0.0.1:$one down; server 127.0.0.1:$two slow_start=10m; }
server {
    listen 127.0.0.1:$port;
    status_zone front;
    location / { return 200 ok; }
    location /limited { rate_limit zone=api; empty_gif; }
    location /pair/ { status_zone pair; proxy_pass http://pair/; circuit_breaker own; }
    location /closed { return 444; }
    location /guarded { ban zone=out status=404 count=2 window=60s duration=60s; try_files /none =404; }
}
server {
    listen 127.0.0.1:$own;
    location = /metrics { metrics; }
    location = /few { metrics max_series=100; }
    location = /locked { limit_except GET { deny all; } metrics; }
    location = /if { if (\$arg_a) { set \$b 1; } metrics; }
    location = /zipped { gzip on; gzip_types text/plain; metrics; }
}
HTTP
my $gateway = gateway(workers => 2, http => $http);

# Formats.
{
    my $answer = get($own, '/metrics');
    is status_of($answer), 200, 'metrics';
    is header_of($answer, 'Content-Type'), 'text/plain; version=0.0.4; charset=utf-8', 'as text, if nothing is said';
    is header_of($answer, 'Vary'), 'Accept', 'other clients get another format';
    is header_of($answer, 'Cache-Control'), 'no-store', 'and nobody keeps it';
    unlike body_of($answer), qr/# EOF|# UNIT/, 'nothing of OpenMetrics in it';
    is length body_of($answer), header_of($answer, 'Content-Length'), 'its length is right';

    $answer = get($own, '/metrics', %open);
    is header_of($answer, 'Content-Type'), 'application/openmetrics-text; version=1.0.0; charset=utf-8', 'OpenMetrics when asked';
    like body_of($answer), qr/\n# EOF\n\z/, 'with its end';
    $answer = get($own, '/metrics', Accept => 'application/openmetrics-text;q=0.5,text/plain;q=0.6');
    like header_of($answer, 'Content-Type'), qr/^text/, 'weights count';

    $answer = get($own, '/metrics', method => 'HEAD');
    is status_of($answer) . body_of($answer), 200, 'HEAD has no body';
    for my $method (qw(POST PUT DELETE)) {
        $answer = get($own, '/metrics', method => $method, body => 'x' x 9);
        is status_of($answer) . ' ' . header_of($answer, 'Allow'), '405 GET, HEAD', "$method is refused";
    }
    is status_of(get($own, '/if?a=1')), 200, 'an if in the location changes nothing';
    is status_of(get($own, '/locked')), 200, 'nor does limit_except';
    $answer = get($own, '/zipped', 'Accept-Encoding' => 'gzip');
    is header_of($answer, 'Content-Encoding'), 'gzip', 'gzip is the filter\'s';
    is header_of($answer, 'Vary'), 'Accept', 'Vary stays';
}

# promtool finds nothing to complain about, and the README knows all names.
{
    wait_until(5, sub { body_of(get($own, '/metrics')) =~ /nginx_health_check_results_total\{.*result="fail",reason="connect"} [1-9]/ }) or fail 'checks run';
    my $text = body_of(get($own, '/metrics'));
    my ($status, $said) = piped($text, $promtool, 'check', 'metrics');
    is "$status$said", 0, 'promtool has nothing to say';
    my %kind = $text =~ /^# TYPE (\S+) (\S+)$/mg;
    open my $file, '<', 'README.md' or die "README.md: $!\n";
    my $readme = do { local $/; <$file> };
    my @unknown = grep { $readme !~ /^\| `\Q$_\E` \| $kind{$_}\b/m } sort keys %kind;
    is "@unknown", '', 'the README has each name, with its type';
    my @gone = grep { !$kind{$_} } $readme =~ /^\| `(nginx_\w+)` \| (?:counter|gauge|histogram)/mg;
    my %some = map { $_ => 1 } qw(nginx_cache nginx_upstream_keepalive nginx_upstream_peer_selected_timestamp_seconds nginx_ssl_handshakes_failed_total nginx_limit_conn_connections_total);
    is "@{[ grep { my $name = $_; !grep { index($name, $_) == 0 } keys %some } @gone ]}", '', 'and nothing else but what is not configured here';
    is_deeply [ sort keys %{ parsed($own) } ], [ sort keys %{ parsed($own, %open) } ], 'both formats have the same series';
}

# Every number is what was sent.
{
    my $before = parsed($own);
    get($port, '/') for 1 .. 5;
    get($port, '/closed') for 1 .. 2;
    get($port, '/pair/') for 1 .. 4;
    get($port, '/pair/missing') for 1 .. 3;
    get($port, '/limited?k=a') for 1 .. 5;
    get($port, '/guarded?banned=x') for 1 .. 4;
    my $after;
    my $grew = sub { my $series = shift; (value($after, $series) // 'none') - (value($before, $series) // 0) };
    wait_until(5, sub { $after = parsed($own, %open); $grew->('nginx_server_zone_requests_total{server_zone=front}') >= 23 });
    is $grew->('nginx_server_zone_requests_total{server_zone=front}'), 23, 'requests of a zone, scrapes apart';
    is $grew->("nginx_http_requests_total{status=$_->[0]}"), $_->[1], "status $_->[0]" for [ 404, 5 ], [ 403, 2 ], [ 429, 2 ], [ 503, 0 ];
    is $grew->('nginx_server_zone_discarded_total{server_zone=front}'), 2, 'without an answer';
    is $grew->("nginx_server_zone_responses_total{code_class=$_->[0],server_zone=front}"), $_->[1], "$_->[0] of the zone" for [ '2xx', 12 ], [ '4xx', 9 ], [ '5xx', 0 ];
    is $grew->('nginx_location_zone_requests_total{location_zone=pair}'), 7, 'requests of a location';
    is $grew->('nginx_rate_limit_allowed_total{zone=api}'), 3, 'allowed';
    is $grew->('nginx_rate_limit_exceeded_total{zone=api}'), 2, 'exceeded';
    is $grew->('nginx_bans_made_total{cause=status,zone=out}'), 1, 'banned';
    is $grew->('nginx_bans_refused_total{dry_run=false,zone=out}'), 2, 'and refused';
    is value($after, 'nginx_bans{zone=out}'), 1, 'in force';
    is $grew->('nginx_rate_limit_requests_total{outcome=rejected,zone=api}'), 2, 'by outcome';
    is $grew->('nginx_rate_limit_decisions_total{source=local,zone=api}'), 5, 'by source';
    is $grew->('nginx_upstream_responses_total{code_class=2xx,upstream=pair}'), 4, 'responses of an upstream';
    is $grew->('nginx_upstream_response_time_seconds_count{upstream=pair}'), 7, 'each with its time';
    my $of = sub { my $name = shift; my $sum = 0; $sum += $grew->($_) for grep {/^\Q$name\E\{.*upstream=pair/ && /peer=[^,}]/} keys %$after; $sum };
    is $of->('nginx_upstream_peer_requests_total'), 7, 'all servers together';
    is $of->('nginx_circuit_breaker_calls_total'), 7, 'and their breakers';
    is $grew->('nginx_circuit_breaker_calls_total{kind=success,peer=,scope=route,upstream=own}'), 7, 'and the route\'s';
    is value($after, 'nginx_redis_up{redis=lost}'), 0, 'a Redis that is not there';
    is value($after, 'nginx_workers{}'), 2, 'workers';
    my @durations = map { $after->{"nginx_http_request_duration_seconds_bucket{le=$_}"} } qw(0.001 0.005 1.0 60.0 +Inf);
    is "@{[ sort { $a <=> $b } @durations ]}", "@durations", 'a histogram only rises';
    is $durations[-1], $after->{'nginx_http_request_duration_seconds_count{}'}, 'up to its count';
}

# One state of a server is 1, all others are there and 0.
sub state_of {
    my ($all, $upstream, $peer) = @_;
    my %of = map { /^nginx_upstream_peer_state\{backup=\w+,peer=\Q$peer\E,state=(\w+),upstream=$upstream}$/ ? ($1 => $all->{$_}) : () } keys %$all;
    keys %of == 10 or return 'not all states are there';
    return join ' ', grep { $of{$_} > 0 } sort keys %of;
}
{
    my $all = parsed($own);
    is state_of($all, 'pair', "127.0.0.1:$one"), 'up', 'up';
    is state_of($all, 'pair', "127.0.0.1:$two#2"), 'up', 'the same address again';
    is state_of($all, 'pair', "127.0.0.1:$none"), 'unhealthy', 'unhealthy';
    is state_of($all, 'only', "127.0.0.1:$one"), 'down', 'down';
    is value($all, 'nginx_upstream_available_ratio{upstream=pair}'), 1, 'backup servers do not count as missing';
    is value($all, 'nginx_upstream_peers{state=unhealthy,upstream=pair}'), 1, 'counted';
    mark($two);
    wait_until(5, sub { $all = parsed($own); value($all, 'nginx_upstream_panic{upstream=pair}') }) or fail 'panic';
    is state_of($all, 'pair', "127.0.0.1:$two"), 'unhealthy', 'a check failed';
    cmp_ok value($all, 'nginx_upstream_available_ratio{upstream=pair}'), '<', 0.34, 'one of three is left';
    my $label = "check=http:/health";
    cmp_ok value($all, "nginx_health_check_results_total{$label,peer=127.0.0.1:$two,reason=status,result=fail,upstream=pair}"), '>=', 2, 'why it failed';
    is value($all, "nginx_health_transitions_total{$label,from=up,peer=127.0.0.1:$two,to=unhealthy,upstream=pair}"), 1, 'the change is counted';
    is value($all, "nginx_health_check_last_passed{$label,peer=127.0.0.1:$one,upstream=pair}"), 1, 'the other still passes';
    cmp_ok abs(time - value($all, "nginx_health_check_last_result_timestamp_seconds{$label,peer=127.0.0.1:$one,upstream=pair}")), '<', 5, 'and that is not long ago';
    unlink "$backend->{dir}/html/sick-$two";
    wait_until(5, sub { state_of(parsed($own), 'pair', "127.0.0.1:$two") eq 'up' }) or fail 'up again';
}

# A breaker opens: state, reason, refusals, when it will let requests through.
{
    get($port, '/pair/broken') for 1 .. 5;
    my $all = parsed($own);
    my $its = 'peer=,scope=upstream';
    is value($all, "nginx_circuit_breaker_state{$its,state=$_->[0],upstream=pair}"), $_->[1], "$_->[0]" for [ open => 1 ], map { [ $_ => 0 ] } qw(closed half_open forced_open forced_closed dry_run disabled);
    is value($all, "nginx_circuit_breaker_transitions_total{from=closed,$its,to=open,upstream=pair}" =~ s/peer=,scope/peer=,reason=failures,scope/r), 1, 'why it opened';
    is value($all, "nginx_circuit_breaker_rejected_total{cause=open,$its,upstream=pair}"), 3, 'what it refused';
    my $retry = value($all, "nginx_circuit_breaker_retry_after_seconds{$its,upstream=pair}");
    ok $retry > 3590 && $retry <= 3600, 'until when';
    is value($all, "nginx_circuit_breaker_calls_total{kind=failure,$its,upstream=pair}"), 2, 'what it was told of';
}

# Never more series than allowed, whole histograms only, and it says how many are missing.
{
    my $text = body_of(get($own, '/few'));
    my $series = () = $text =~ /^[^#]/mg;
    cmp_ok $series, '<=', 100, 'max_series';
    like $text, qr/^nginx_metrics_series $series$/m, 'which it counts';
    like $text, qr/^nginx_metrics_series_dropped [1-9]\d*$/m, 'with those left out';
    my ($status, $said) = piped($text, $promtool, 'check', 'metrics');
    is "$status$said", 0, 'what is left is sound';
}

# What is gone is gone, and the rest goes on counting.
{
    my $before = parsed($own);
    (my $smaller = $http) =~ s/server 127.0.0.1:$two; server 127.0.0.1:$two;//;
    ok $gateway->reload(workers => 2, http => $smaller), 'reload';
    my $after = parsed($own);
    ok !grep(/upstream=pair/ && /peer=127.0.0.1:$two/, keys %$after), 'a server that is gone is not shown';
    ok grep(/upstream=pair/ && /peer=127.0.0.1:$one/, keys %$after), 'one that stays is';
    cmp_ok value($after, $_), '>=', value($before, $_), "$_ goes on" for 'nginx_http_requests_total{status=404}', 'nginx_rate_limit_exceeded_total{zone=api}';
    is value($after, 'nginx_circuit_breaker_state{peer=,scope=upstream,state=open,upstream=pair}'), 1, 'the breaker is still open';
}

ok $gateway->quit, 'quit';
unlike $gateway->log, qr/\[(?:emerg|alert|crit)\]|internal error/, 'nothing bad in the log';

# Mistakes.
for my $row (
    [ 'metrics on;',                 '"metrics" directive has unknown parameter "on"' ],
    [ 'metrics max_series=99;',      '"metrics" directive has invalid value "99" of "max_series", a number from 100 to 10000000 expected' ],
    [ 'metrics max_series=x;',       '"metrics" directive has invalid value "x" of "max_series", a whole number expected' ],
    [ 'metrics max_series;',         '"metrics" directive has invalid value "" of "max_series", a value expected' ],
    [ 'metrics a b;',                'invalid number of arguments in "metrics" directive' ],
    [ 'metrics; metrics;',           '"metrics" directive is duplicate' ],
    [ 'empty_gif; metrics;',         '"metrics" directive stands beside another handler of the location' ],
) {
    my ($text, $message) = @$row;
    my ($status, $said) = nginx_t(http => "server { location / {\n\n$text\n} }");
    ok $status != 0 && $said =~ /\[emerg\] .*\Q$message\E.* in \S+nginx\.conf:\d+$/m, $text or diag "$status: $said";
}
for my $level ('', 'server {') {
    my ($status, $said) = nginx_t(http => "$level\nmetrics;\n" . ($level && '}'));
    ok $status != 0 && $said =~ /"metrics" directive is not allowed here/, 'only in a location' or diag $said;
}

done_testing;
