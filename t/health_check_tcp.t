# health_check type=tcp: a connection is all that is wanted, with TLS a handshake.
use strict;
use warnings;
use lib 't/lib';
use IO::Socket::INET;
use Sluice::Certificates;
use Sluice::Run;
use Test::More;

my $files = certificates(backend => { names => 'DNS:backend.example' });
my ($serves, $tls, $closed, $front) = map { free_port() } 1 .. 4;
my $socket = "$files/backend.sock";
# 500 is a good answer for a check that asks nothing.
my $backend = gateway(load => '', http => <<"EOT");
    server { listen 127.0.0.1:$serves; listen unix:$socket; location / { access_log logs/probes; return 500; } }
    server { listen 127.0.0.1:$tls ssl; ssl_certificate $files/backend.crt; ssl_certificate_key $files/backend.key; }
EOT
# It listens, and never says a word.
my $silent = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 64) or die "listen: $!\n";

# [ server, parameters ], and what is wrong. Every check is mandatory: its first verdict is logged.
my $verify = "scheme=https sni=backend.example verify=on ca=$files/ca.crt";
my %upstreams = (
    u_serves   => [ "127.0.0.1:$serves", '' ],
    u_silent   => [ '127.0.0.1:' . $silent->sockport, '' ],
    u_unix     => [ "unix:$socket", '' ],
    u_port     => [ "127.0.0.1:$closed", "port=$serves" ],
    u_tls      => [ "127.0.0.1:$tls", $verify ],
    u_closed   => [ "127.0.0.1:$closed", '', 'connect() failed: Connection refused' ],
    u_nosocket => [ 'unix:/no/such.sock', '', 'connect() failed: No such file or directory' ],
    u_plain    => [ "127.0.0.1:$serves", $verify, 'TLS handshake failed: the server does not speak TLS' ],
    u_name     => [ "127.0.0.1:$tls", $verify =~ s/backend/other/r, 'TLS handshake failed: invalid peer certificate: certificate not valid for name' ],
    u_hangs    => [ '127.0.0.1:' . $silent->sockport, "$verify timeout=200ms", 'timed out after 200 ms while negotiating TLS' ],
);
my $http = join '', map {"upstream $_ { server $upstreams{$_}[0]; health_check type=tcp mandatory interval=200ms $upstreams{$_}[1]; }\n"} sort keys %upstreams;
my $gateway = gateway(main => 'error_log logs/error.log notice;', workers => 2, http => <<"EOT");
    $http
    upstream group { zone group 64k; server 127.0.0.1:$serves; server 127.0.0.1:$closed; health_check type=tcp interval=100ms; }
    upstream l_tls { server 127.0.0.1:$tls; }
    server {
        listen 127.0.0.1:$front;
        location / { proxy_pass http://group; }
        location \@tls { proxy_pass https://l_tls; proxy_ssl_verify on; proxy_ssl_trusted_certificate $files/ca.crt; proxy_ssl_name backend.example;
            health_check type=tcp mandatory interval=200ms; }
    }
EOT
my %wanted = ((map { $_ => $upstreams{$_}[2] } keys %upstreams), l_tls => undef);
for my $name (sort keys %wanted) {
    my $said = $wanted{$name} ? "is unhealthy: $wanted{$name}" : 'is healthy';
    ok wait_until(10, sub { $gateway->log =~ /upstream server \S+ \Q$said\E.*, upstream "$name"/ }), "$name: $said"
        or diag grep {/"$name"/} split /^/, $gateway->log;
}
ok wait_until(10, sub { $gateway->log =~ /127\.0\.0\.1:$closed is unhealthy: connect\(\) failed: Connection refused.*, upstream "group"/ }), 'the closed one is out';
is_deeply [ map { status_of(get($front, '/')) } 1 .. 4 ], [ (500) x 4 ], 'the other has all requests';
my $asked = do { open my $file, '<', "$backend->{dir}/logs/probes"; grep { !/GET \/ / } <$file> };
is $asked, 0, 'nothing is asked';

# The port opens: the server is back.
my $late = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $closed, Listen => 64, ReuseAddr => 1) or die "listen: $!\n";
ok wait_until(10, sub { $gateway->log =~ /127\.0\.0\.1:$closed is healthy, upstream "group"/ }), 'and back';
ok $gateway->quit, 'quit';
unlike $gateway->log, qr/\[(?:emerg|alert|crit)\]/, 'nothing bad in the log';

# Mistakes: nginx -t names what is wrong, and where.
for my $row (
    [ 'health_check type=udp;',                   'invalid value "udp" of "type", "http", "tcp" or "grpc" expected' ],
    (map { [ "health_check type=tcp $_;", sprintf 'has "%s", which a check of "type=tcp" does not use', /^(\w+)/ ] }
            'uri=/', 'method=GET', 'match=m', 'host=a', 'keepalive_time=1s', 'grpc_service=a', 'grpc_status=1'),
    [ 'health_check type=tcp; health_check_header A b;', '"health_check_header" directive has no "health_check" in its block that sends headers' ],
) {
    my ($text, $message) = @$row;
    my ($status, $said) = nginx_t(http => "match m { status 200; }\nupstream u {\nserver 127.0.0.1:1;\n$text\n}");
    ok $status != 0 && $said =~ /\[emerg\].*\Q$message\E.* in \S+nginx\.conf:12$/ms, $text or diag "$status: $said";
}

done_testing;
