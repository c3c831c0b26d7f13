# health_check type=grpc: the gRPC health checking protocol, asked of servers of the grpcio library.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Certificates;
use Sluice::Run;
use Test::More;

my ($python) = grep {`$_ -c 'import grpc' 2>&1` eq ''} '/usr/bin/python3', 'python3' or die "no grpc for python3: run scripts/setup\n";
my $dir = certificates(backend => { names => 'DNS:backend.example' });
my ($health, $tls, $bare, $http1) = map { free_port() } 1 .. 4;

# serves($service, $status): 1 is SERVING, 2 is NOT_SERVING.
sub serves { Sluice::Run::spew("$dir/service-$_[0]", $_[1]) }
serves('',         1);
serves('tea.Tea',  1);
serves('sick.One', 2);
serves('odd.One',  9);
my $server = Sluice::Run::run($python, 't/lib/grpc-backend.py', $dir, $health, $tls, $bare);
ok wait_until(20, sub { -e "$dir/ready" || Sluice::Run::ended($server) }) && -e "$dir/ready", 'the gRPC servers run';
my $backend = gateway(load => '', http => "server { listen 127.0.0.1:$http1; location / { return 200 hello; } }");

sub checks {
    open my $file, '<', "$dir/checks" or return;
    return grep {/^\Q$_[0]\E\t/} <$file>;
}

# [ port, parameters ], and what is wrong. Every check is mandatory: its first verdict is logged.
my %upstreams = (
    u_server  => [ $health, '' ],
    u_service => [ $health, 'grpc_service=tea.Tea' ],
    u_tls     => [ $tls,    "scheme=https sni=backend.example verify=on ca=$dir/ca.crt" ],
    u_bare    => [ $bare,   'grpc_status=12' ],
    u_unknown => [ $health, 'grpc_service=no.such grpc_status=5' ],
    u_sick    => [ $health, 'grpc_service=sick.One', 'wanted SERVING, got NOT_SERVING' ],
    u_odd     => [ $health, 'grpc_service=odd.One',  'wanted SERVING, got 9' ],
    u_missing => [ $health, 'grpc_service=no.such',  'wanted grpc-status 0 (OK), got 5 (NOT_FOUND) "unknown service"' ],
    u_nobody  => [ $bare,   '', 'wanted grpc-status 0 (OK), got 12 (UNIMPLEMENTED)' ],
    u_status  => [ $health, 'grpc_status=12', 'wanted grpc-status 12 (UNIMPLEMENTED), got 0 (OK)' ],
    u_http1   => [ $http1,  '', 'not HTTP/2, the server speaks HTTP/1' ],
    u_clear   => [ $tls,    '', 'connection closed before the answer was complete' ],
);
my $log = 'error_log logs/error.log notice;';
my $http = join '', map {
    my ($port, $params) = @{ $upstreams{$_} };
    "upstream $_ { server 127.0.0.1:$port; health_check mandatory interval=200ms type=grpc $params; }\n"
} sort keys %upstreams;
my $front = free_port();
my $gateway = gateway(main => $log, workers => 2, http => <<"EOT");
    $http
    upstream l_plain { zone l_plain 64k; server 127.0.0.1:$health; }
    upstream l_tls   { zone l_tls 64k; server 127.0.0.1:$tls; }
    upstream l_wrong { zone l_wrong 64k; server 127.0.0.1:$tls; }
    upstream kept    { server 127.0.0.1:$health; health_check interval=50ms type=grpc grpc_service=kept keepalive_time=60s; health_check_header X-Probe yes; }
    upstream single  { server 127.0.0.1:$health; health_check interval=50ms timeout=9s type=grpc grpc_service=single; }
    server {
        listen 127.0.0.1:$front;
        location / { grpc_pass grpc://l_plain; }
        location \@l_plain { grpc_pass grpc://l_plain; health_check interval=100ms mandatory type=grpc grpc_service=tea.Tea; }
        location \@l_tls {
            grpc_ssl_verify on; grpc_ssl_trusted_certificate $dir/ca.crt; grpc_ssl_name backend.example;
            grpc_pass grpcs://l_tls; health_check interval=200ms mandatory type=grpc;
        }
        location \@l_wrong {
            grpc_ssl_verify on; grpc_ssl_trusted_certificate $dir/ca.crt; grpc_ssl_name other.example;
            grpc_pass grpcs://l_wrong; health_check interval=200ms mandatory type=grpc;
        }
    }
EOT
my %wanted = map { $_ => $upstreams{$_}[2] } keys %upstreams;
$wanted{l_plain} = $wanted{l_tls} = undef;
$wanted{l_wrong} = 'TLS handshake failed: invalid peer certificate: certificate not valid for name "other.example"';
for my $name (sort keys %wanted) {
    my $said = $wanted{$name} ? "is unhealthy: $wanted{$name}" : 'is healthy';
    ok wait_until(15, sub { $gateway->log =~ /upstream server \S+ \Q$said\E.*, upstream "$name"/ }), "$name: $said"
        or diag grep {/"$name"/} split /^/, $gateway->log;
}

# Traffic follows: a service that stops serving gets no requests until it serves again.
is status_of(get($front, '/tea.Tea/Brew')), 200, 'a healthy server has requests';
serves('tea.Tea', 2);
ok wait_until(10, sub { status_of(get($front, '/tea.Tea/Brew')) == 502 }), 'NOT_SERVING: none';
serves('tea.Tea', 1);
ok wait_until(10, sub { status_of(get($front, '/tea.Tea/Brew')) == 200 }), 'SERVING: again';

# What was asked, and on how many connections.
serves($_, 1) for qw(kept single);
for my $row ([ kept => 1, 1 ], [ single => 10, 10 ]) {
    my ($name, $least, $most) = @$row;
    ok wait_until(10, sub { checks($name) >= 20 }), "$name: probed";
    my %peers = map { (split /\t/)[1] => 1 } (checks($name))[ 10 .. 19 ];
    is scalar(keys %peers), $most, "$name: connections" or diag explain \%peers;
}
like +(checks('kept'))[0],   qr/^kept\t\S+\t[23]\.\d\tsluice health check\tyes$/, 'the deadline, the user agent and a header are sent';
like +(checks('single'))[0], qr/^single\t\S+\t(?:9\.0|8\.9)\t/, 'the deadline is the timeout';
ok $gateway->quit, 'quit';
unlike $gateway->log, qr/\[(?:emerg|alert|crit)\]/, 'nothing bad in the log';

# Mistakes: nginx -t names what is wrong, and where.
my $u = sub {"upstream u {\nserver 127.0.0.1:1;\n$_[0]\n}"};
for my $row (
    [ 'health_check grpc_service=a;',                  'has "grpc_service" without "type=grpc"' ],
    [ 'health_check grpc_status=1 type=http;',         'has "grpc_status" without "type=grpc"' ],
    [ 'health_check type=grpc grpc_status=17;',        'invalid value "17" of "grpc_status", a gRPC status from 0 to 16 expected' ],
    [ 'health_check type=grpc grpc_status=OK;',        'invalid value "OK" of "grpc_status"' ],
    [ 'health_check type=grpc grpc_service=;',         'invalid value "" of "grpc_service"' ],
    [ 'health_check type=grpc uri=/;',                 'has "uri", which a check of "type=grpc" does not use' ],
    [ 'health_check match=m type=grpc;',               'has "match", which a check of "type=grpc" does not use' ],
    [ 'health_check type=grpc method=GET;',            'has "method", which a check of "type=grpc" does not use' ],
    [ 'health_check type=grpc "host=a b";',            'invalid host "a b"' ],
    [ 'health_check type=grpc; health_check_header grpc-timeout 1S;', 'header "grpc-timeout" cannot be set' ],
) {
    my ($text, $message) = @$row;
    my ($status, $said) = nginx_t(http => "match m { status 200; }\n" . $u->($text));
    ok $status != 0 && $said =~ /\[emerg\].*"health_check" directive .*\Q$message\E.* in \S+nginx\.conf:12$/ms, $text or diag "$status: $said";
}

# What the NGINX Ingress Controller writes for a gRPC service.
my ($status, $said) = nginx_t(http => <<'EOT');
    upstream vs { zone vs 256k; server 127.0.0.1:1; }
    server { location @hc-vs { grpc_connect_timeout 60s; grpc_read_timeout 60s; grpc_send_timeout 60s; grpc_pass grpc://vs;
        health_check port=50051 interval=5s jitter=0s fails=1 passes=1 mandatory persistent type=grpc grpc_status=12 grpc_service=tea.Tea;
    } }
EOT
is $status, 0, 'the lines of the NGINX Ingress Controller' or diag $said;

done_testing;
