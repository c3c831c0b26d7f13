# health_check over TLS: scheme, sni, verify and ca of its own, or those of its location; and connections that are kept.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Certificates;
use Sluice::Run;
use Test::More;

my $files = certificates(
    good     => { names => 'DNS:backend.example,IP:127.0.0.1' },
    old      => { seconds => -60 },
    stranger => { by      => 'other', names => 'DNS:backend.example' },
    client   => { names   => 'DNS:gateway.example' },
    alien    => { names   => 'DNS:gateway.example', by => 'other' },
);
my $log = 'error_log logs/error.log notice;';

# Stock nginx servers, each with a certificate of its own; what they were asked is in logs/probes.
my %ports = map { $_ => free_port() } qw(good old stranger strict plain);
my $format = q{log_format probe '$server_port $request_uri "$ssl_server_name" $http_host $ssl_client_verify $connection $connection_requests';};
my %extra = (strict => "ssl_client_certificate $files/ca.crt; ssl_verify_client on;");
my $servers = join '', map {
    my $tls = $_ eq 'plain' ? '' : "ssl_certificate $files/$_.crt; ssl_certificate_key $files/$_.key;";
    $tls =~ s/strict/good/g;
    my $ssl = $_ eq 'plain' ? '' : 'ssl';
    "server { listen 127.0.0.1:$ports{$_} $ssl; $tls " . ($extra{$_} || '') . " location / { access_log logs/probes probe; return 200 '{\"status\":\"healthy\"}'; } }\n"
} sort keys %ports;
my $backend = gateway(load => '', http => "$format\n$servers");

sub asked {
    open my $file, '<', "$backend->{dir}/logs/probes" or return;
    return grep {/ $_[0] /} <$file>;
}

# Each check has a group of its own name and asks for /NAME. Every check is mandatory: its first verdict is logged.
my $verify = "verify=on ca=$files/ca.crt";
my $trust = "proxy_ssl_verify on; proxy_ssl_trusted_certificate $files/ca.crt;";
my $named = 'proxy_ssl_server_name on; proxy_ssl_name backend.example:443;';
my $own = sub {"proxy_ssl_certificate $files/$_[0].crt; proxy_ssl_certificate_key $files/$_[0].key;"};

# In upstreams: [ server, parameters ], and what is wrong.
my %upstreams = (
    u_any      => [ 'stranger', '' ],
    u_old      => [ 'old',      'verify=off' ],
    u_verified => [ 'good',     "sni=backend.example $verify" ],
    u_match    => [ 'good',     "sni=backend.example match=healthy host=asked.example" ],
    u_unknown  => [ 'stranger', "sni=backend.example $verify", 'TLS handshake failed: invalid peer certificate: UnknownIssuer' ],
    u_expired  => [ 'old',      "sni=127.0.0.1 $verify", 'TLS handshake failed: invalid peer certificate: certificate expired' ],
    u_wrong    => [ 'good',     "sni=other.example $verify", 'TLS handshake failed: invalid peer certificate: certificate not valid for name "other.example"' ],
    u_nameless => [ 'good',     $verify, 'TLS handshake failed: invalid peer certificate: certificate not valid for name "u_nameless"' ],
    u_plain    => [ 'plain',    '', 'TLS handshake failed: the server does not speak TLS' ],
    u_clear    => [ 'good',     'scheme=http', 'status: wanted 200-399, got 400' ],
    u_required => [ 'strict',   '', 'status: wanted 200-399, got 400' ],
);
# In locations: [ server, what the location says, parameters ], and what is wrong.
my %locations = (
    l_any      => [ 'stranger', '' ],
    l_verified => [ 'good',     "$trust $named" ],
    l_inherit  => [ 'stranger', $named, '', 'TLS handshake failed: invalid peer certificate: UnknownIssuer' ],
    l_client   => [ 'strict',   $own->('client') ],
    l_own_sni  => [ 'good',     "$trust", 'sni=backend.example' ],
    l_own_ca   => [ 'stranger', "$trust $named", "ca=$files/other.crt" ],
    l_off      => [ 'stranger', "$trust $named", 'verify=off' ],
    l_host     => [ 'good',     'proxy_ssl_server_name on; proxy_ssl_name $proxy_host;' ],
    l_unknown  => [ 'stranger', "$trust $named", '', 'TLS handshake failed: invalid peer certificate: UnknownIssuer' ],
    l_alien    => [ 'strict',   $own->('alien'), '', 'status: wanted 200-399, got 400' ],
    l_clear    => [ 'good',     $trust, 'scheme=http', 'status: wanted 200-399, got 400' ],
);
my ($http, $places) = ('match healthy { status 200; json $.status = healthy; }', '');
my $common = 'mandatory interval=200ms';
for my $name (sort keys %upstreams) {
    my ($server, $params) = @{ $upstreams{$name} };
    my $scheme = $params =~ /scheme=/ ? '' : 'scheme=https';
    $http .= "upstream $name { server 127.0.0.1:$ports{$server}; health_check $common uri=/$name $scheme $params; }\n";
}
for my $name (sort keys %locations) {
    my ($server, $lines, $params) = @{ $locations{$name} };
    $http .= "upstream $name { server 127.0.0.1:$ports{$server}; }\n";
    my $check = sprintf 'health_check %s uri=/%s %s;', $common, $name, $params || '';
    # Before or after what it takes from its location is the same.
    $places .= $name lt 'l_h' ? "location \@$name { $check $lines proxy_pass https://$name; }\n" : "location \@$name { proxy_pass https://$name; $lines $check }\n";
}
my $port = free_port();
# l_inherit has its verification from the server.
my $inherited = "$trust location \@l_inherit";
my $server = "server { listen 127.0.0.1:$port; location / { proxy_pass http://u_any; } $places }";
$server =~ s/(location \@l_inherit \{.*?\}\n)//s;
$server .= "server { listen 127.0.0.1:$port; server_name inherit; $trust $1 }";
my $gateway = gateway(main => $log, workers => 2, http => "$http $server");

my %wanted = ((map { $_ => $upstreams{$_}[2] } keys %upstreams), map { $_ => $locations{$_}[3] } keys %locations);
for my $name (sort keys %wanted) {
    my $said = $wanted{$name} ? "is unhealthy: $wanted{$name}" : 'is healthy';
    ok wait_until(10, sub { $gateway->log =~ /upstream server \S+ \Q$said\E.*, upstream "$name"/ }), "$name: $said"
        or diag grep {/"$name"/} split /^/, $gateway->log;
}
my $first = sub { (asked("/$_[0]"))[0] // '' };
like $first->('u_any'),      qr/ "-" u_any NONE /,                        'no name is sent unless it is said';
like $first->('u_verified'), qr/ "backend\.example" u_verified NONE /,   'sni';
like $first->('u_match'),    qr/ "backend\.example" asked\.example NONE /, 'the Host is another thing';
like $first->('l_any'),      qr/ "-" l_any NONE /,                        'nor by a location';
like $first->('l_verified'), qr/ "backend\.example" l_verified /,        'proxy_ssl_name, without its port';
like $first->('l_own_sni'),  qr/ "backend\.example" /,                   'sni goes before the location';
like $first->('l_host'),     qr/ "l_host" /,                             '$proxy_host is the name of the group';
like $first->('l_client'),   qr/ SUCCESS /,                              'the certificate of the location is shown';
ok $gateway->quit, 'quit';
unlike $gateway->log, qr/\[(?:emerg|alert|crit)\]/, 'nothing bad in the log';

# keepalive_time: connections are kept, over TLS and without, for as long as that, and not without it.
{
    my $port    = free_port();
    my $gateway = gateway(main => $log, http => <<"EOT");
        upstream kept   { server 127.0.0.1:$ports{good}; health_check interval=50ms uri=/kept scheme=https keepalive_time=60s; }
        upstream clear  { server 127.0.0.1:$ports{plain}; health_check interval=50ms uri=/clear keepalive_time=60s; }
        upstream brief  { server 127.0.0.1:$ports{plain}; health_check interval=50ms uri=/brief keepalive_time=300ms; }
        upstream single { server 127.0.0.1:$ports{good}; health_check interval=50ms uri=/single scheme=https; }
EOT
    my %connections = (kept => [ 1, 1 ], clear => [ 1, 1 ], brief => [ 2, 6 ], single => [ 10, 10 ]);
    for my $name (sort keys %connections) {
        ok wait_until(10, sub { asked("/$name") >= 10 }), "$name: probed";
        my %seen = map { (split)[5] => 1 } (asked("/$name"))[ 0 .. 9 ];
        my ($least, $most) = @{ $connections{$name} };
        ok keys %seen >= $least && keys %seen <= $most, "$name: $least to $most connections" or diag explain \%seen;
    }
    # The backend goes, and with it the connections: no failure comes of that.
    ok $backend->reload, 'the backend is reloaded';
    my $before = asked('/kept');
    ok wait_until(10, sub { asked('/kept') >= $before + 5 }), 'probed as before';
    unlike $gateway->log, qr/unhealthy/, 'a connection that the server ends is no failure';
    ok $gateway->quit, 'quit';
}

# Mistakes: nginx -t names what is wrong, and where.
my $u = sub {"upstream u {\nserver 127.0.0.1:1;\n$_[0]\n}"};
my $l = sub {"upstream u { server 127.0.0.1:1; } server {\nlocation / {\n$_[0]\n} }"};
for my $row (
    [ $u->('health_check scheme=ftp;'),                    'invalid value "ftp" of "scheme", "http" or "https" expected' ],
    [ $u->('health_check scheme=https verify=yes;'),       'invalid value "yes" of "verify", "on" or "off" expected' ],
    [ $u->('health_check scheme=https sni=;'),             'invalid value "" of "sni"' ],
    [ $u->('health_check scheme=https "sni=a b";'),        'invalid server name "a b"' ],
    [ $u->('health_check sni=a;'),                         'has "sni" without "scheme=https"' ],
    [ $u->('health_check verify=off;'),                    'has "verify" without "scheme=https"' ],
    [ $u->('health_check scheme=http ca=a;'),              'has "ca" without "scheme=https"' ],
    [ $u->('health_check scheme=https verify=on;'),        'has "verify=on" without "ca"' ],
    [ $u->("health_check scheme=https ca=$files/ca.crt;"), 'has "ca" without "verify=on"' ],
    [ $u->('health_check scheme=https verify=on ca=/no/such;'), 'cannot read "/no/such": No such file' ],
    [ $u->("health_check scheme=https verify=on ca=$files/good.key;"), 'no usable certificate among the trusted ones' ],
    [ $u->('health_check keepalive_time=2d;'),             'invalid value "2d" of "keepalive_time"' ],
    [ $l->('health_check sni=a; proxy_pass http://u;'),    'has "sni" without "scheme=https"' ],
    [ $l->('health_check scheme=http verify=off; proxy_pass https://u;'), 'has "verify" without "scheme=https"' ],
    [ $l->('health_check verify=on; proxy_pass https://u;'), 'has "verify=on" without "ca"' ],
    [ $l->('health_check; proxy_ssl_name $host; proxy_pass https://u;'), 'cannot take "proxy_ssl_name" from its location' ],
    [ $l->('health_check; proxy_ssl_server_name on; proxy_ssl_name "a b"; proxy_pass https://u;'), 'invalid server name "a b"' ],
    [ $l->("health_check; proxy_ssl_certificate $files/\$host.crt; proxy_ssl_certificate_key $files/client.key; proxy_pass https://u;"), 'cannot take "proxy_ssl_certificate" from its location' ],
) {
    my ($text, $message) = @$row;
    my ($status, $said) = nginx_t(http => "\n$text");
    (my $shown = $text) =~ s/\s+/ /g;
    ok $status != 0 && $said =~ /\[emerg\].*"health_check" directive .*\Q$message\E.* in \S+nginx\.conf:12$/ms, $shown or diag "$status: $said";
}

for my $good ($l->('health_check; proxy_pass https://u;'), $l->("health_check sni=a; $trust proxy_pass https://u;"), $u->('health_check scheme=https type=http sni=a verify=off;')) {
    my ($status, $said) = nginx_t(http => $good);
    is $status, 0, $good or diag $said;
}

done_testing;
