# TLS to Redis: what may be trusted is, alone and through sentinels; what may not be costs one clear line in the log, and
# requests are limited by the host instead, at once.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Certificates;
use Sluice::Load;
use Sluice::Redis;
use Sluice::Run;
use Test::More;

# A request may take so much longer than the deadline of 50 ms on a machine that does a lot besides.
my $late = 1;

my $files = certificates(
    server   => { names => 'IP:127.0.0.1,DNS:redis.example' },
    named    => { names => 'DNS:redis.example' },
    old      => { seconds => -60 },
    stranger => { by    => 'other' },
    client   => { names => 'DNS:gateway.example' },
    alien    => { names => 'DNS:gateway.example', by => 'other' },
);
my %at = (plain => server());
$at{$_} = tls_server($files, certificate => $_) for qw(server named old stranger);
$at{strict} = tls_server($files, args => [qw(--tls-auth-clients yes)]);
$at{locked} = tls_server($files, args => [qw(--requirepass sesame)], password => 'sesame');
my $set = sentinels(tls => $files, replicas => 0);

my ($ca, $own, $alien) = ("tls_ca $files/ca.crt;", map {"tls_certificate $files/$_.crt; tls_certificate_key $files/$_.key;"} qw(client alien));
sub to { my ($name, $lines) = @_; return "server 127.0.0.1:$at{$name}{port}; $lines" }
my %good = (
    ca          => to(server   => "tls on; $ca"),
    host        => to(server   => "tls on; $ca") =~ s/127\.0\.0\.1/localhost/r . ' tls_name 127.0.0.1;',
    name        => to(named    => "tls on; $ca tls_name redis.example;"),
    unverified  => to(stranger => 'tls on; tls_verify off;'),
    expired_ok  => to(old      => 'tls on; tls_verify off;'),
    certificate => to(strict   => "tls on; $ca $own"),
    password    => to(locked   => "tls on; $ca password sesame;"),
    sentinel    => $set->servers . "mode sentinel; master m; tls on; $ca $own",
    sentinel_name => $set->servers . "mode sentinel; master m; tls on; $ca tls_name redis.example;",
);
my %bad = (
    other_ca    => [ stranger => "tls on; $ca",                              qr/invalid peer certificate: UnknownIssuer/ ],
    system_ca   => [ server   => 'tls on;',                                  qr/invalid peer certificate: UnknownIssuer/ ],
    expired     => [ old      => "tls on; $ca",                              qr/invalid peer certificate: certificate expired/ ],
    wrong_name  => [ named    => "tls on; $ca tls_name other.example;",      qr/invalid peer certificate: certificate not valid for name "other\.example"/ ],
    no_name     => [ named    => "tls on; $ca",                              qr/invalid peer certificate: certificate not valid for name "127\.0\.0\.1"/ ],
    no_own      => [ strict   => "tls on; $ca",                              qr/received fatal alert: CertificateRequired/ ],
    alien       => [ strict   => "tls on; $ca $alien",                       qr/received fatal alert: UnknownCA/ ],
    to_plain    => [ plain    => "tls on; $ca connect_timeout 300ms;",       qr/connect timed out \(with "tls on": does this port speak it\?\)/ ],
    from_plain  => [ server   => '',                   qr/reset by peer|closed|broken pipe|end of file|terminated/i ],
);
my %blocks = (%good, map { $_ => to(@{ $bad{$_} }[ 0, 1 ]) } keys %bad);
# The name is asked of the sentinels too, before they are asked for anything.
$bad{sentinel_other} = [ undef, undef, qr/sentinel 127\.0\.0\.1:\d+: [^\n]*invalid peer certificate: certificate not valid for name "other\.example"/ ];
$blocks{sentinel_other} = $set->servers . "mode sentinel; master m; tls on; $ca tls_name other.example;";

my ($port, $watch, $http, $locations) = (free_port(), watch(), '', '');
for my $name (sort keys %blocks) {
    my $wait = $bad{$name} ? 'breaker open=300ms;' : 'timeout 2s;';
    $http .= "redis $name { $blocks{$name} $wait }\nrate_limit_zone \$arg_k zone=$name:1m rate=5r/h burst=4 redis=$name;\n";
    $locations .= "location /$name { rate_limit zone=$name nodelay; empty_gif; }\n";
}
my $gateway = gateway(workers => 1, main => 'error_log logs/error.log notice;', http => "$http rate_limit_log_level info; server { listen 127.0.0.1:$port; $watch $locations }");

for my $name (sort keys %good) {
    my @answers = burst(9, [$port], "/$name?k=1", at_once => 3);
    is count_of(200, @answers), 5, "$name: 5 of 9";
    is scalar(by('redis|cache', @answers)), 9, "$name: by Redis";
}
sub lost { my $name = shift; return $gateway->log =~ /\[error\] [^\n]*redis is lost: ([^\n]*), redis "$name"/g }
for my $name (sort keys %bad) {
    my @answers = load_for(0.2, [$port], "/$name?k=1", at_once => 4);
    is scalar(by('fallback', @answers)), scalar @answers, "$name: by this host";
    is count_of(200, @answers), 5, "$name: 5 of " . @answers;
    is scalar(unwell(@answers)), 0, "$name: no 5xx";
    cmp_ok slowest(@answers), '<', $late, "$name: none is late";
}
for my $name (sort keys %bad) {
    ok wait_until(5, sub { lost($name) }), "$name: it is lost";
    my @lines = lost($name);
    is scalar @lines, 1, "$name: one line";
    like $lines[0], $bad{$name}[2], "$name: which says why";
}

# Certificates that cannot be used are found out by nginx -t.
Sluice::Run::spew("$files/garbage", 'not a certificate');
my %refused = (
    "tls_ca $files/garbage;"               => qr/no certificate in "tls_ca"/,
    "tls_ca $files/ca.key;"                => qr/no certificate in "tls_ca"/,
    "tls_ca $files/none;"                  => qr/"tls_ca" in "redis" cannot read "[^"]*none"/,
    "$ca tls_certificate $files/client.crt;" => qr/needs "tls_certificate" and "tls_certificate_key" together/,
    "$ca tls_certificate $files/garbage; tls_certificate_key $files/client.key;" => qr/no certificate in "tls_certificate"/,
    "$ca tls_certificate $files/client.crt; tls_certificate_key $files/garbage;" => qr/private key|tls_certificate_key/,
    "$ca tls_certificate $files/client.crt; tls_certificate_key $files/alien.key;" => qr/the key in "tls_certificate_key" is not that of "tls_certificate"/,
);
for my $lines (sort keys %refused) {
    my ($status, $said) = nginx_t(http => "redis r { server 127.0.0.1; tls on; $lines } server { }");
    isnt $status, 0, "$lines: refused";
    like $said, qr/\[emerg\] [^\n]*in [^\n]*nginx\.conf:\d+/, 'and says where';
    like $said, $refused{$lines}, 'and why';
}

ok $gateway->quit, 'QUIT ends it';
unlike $gateway->log, qr/\[(?:emerg|alert|crit)\]|panic|exited on signal/, 'nothing bad in its log';
done_testing;
