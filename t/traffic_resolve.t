# Servers that DNS adds to a group, and takes away, are counted while they are there, and while they still serve.
use strict;
use warnings;
use lib 't/lib';
use IO::Socket::INET;
use JSON::PP qw(decode_json);
use Sluice::Dns;
use Sluice::Run;
use Test::More;

my $binary = $ENV{TEST_NGINX_BINARY} || q(nginx);
my ($major, $minor, $patch) = `$binary -v 2>&1` =~ m{nginx/(\d+)\.(\d+)\.(\d+)} or die 'no version';
plan skip_all => 'nginx resolves names of upstreams from 1.27.3 on' if sprintf('%d%03d%03d', $major, $minor, $patch) < 1_027_003;

my ($port, $api, $at) = map { free_port() } 1 .. 3;
my $mute    = IO::Socket::INET->new(LocalAddr => '127.0.0.9', LocalPort => $at, Listen => 64) or die;    # takes connections, never answers
my $backend = gateway(load => '', http => join '', map {"server { listen 127.0.0.$_:$at; return 200 $_; }\n"} 2 .. 4);
my $dns     = dns('app.test' => ['127.0.0.2'], 'slow.test' => ['127.0.0.9']);
my $log     = 'error_log logs/error.log notice;';
my $http    = "resolver 127.0.0.1:$dns->{port} valid=1s ipv6=off;\n"
    . "upstream app { zone app 128k; server app.test:$at resolve; } upstream slow { zone slow 128k; server slow.test:$at resolve; }\n"
    . "server { listen 127.0.0.1:$port; location / { proxy_pass http://app; } location /slow { proxy_pass http://slow; } }\n"
    . "server { listen 127.0.0.1:$api; location /api { api; } }";
my $gateway = gateway(main => $log, workers => 2, http => $http);

sub group { my $answer = get($api, "/api/9/http/upstreams/$_[0]"); return status_of($answer) == 200 ? decode_json(body_of($answer)) : {} }

# known($group): server => [id, requests] by the last number of the address.
sub known { return { map { $_->{server} =~ /\.(\d+):/; ($1 => [ $_->{id}, $_->{requests} ]) } @{ group($_[0])->{peers} || [] } } }

sub becomes {
    my ($group, $wanted, $what) = @_;
    my $is;
    ok wait_until(10, sub { $is = known($group); eq_hash($is, $wanted) }), $what or diag explain [ $is, $wanted ];
}

becomes('app', { 2 => [ 0, 0 ] }, 'found by DNS');
get($port, '/') for 1 .. 6;
becomes('app', { 2 => [ 0, 6 ] }, 'counted');
$dns->say('app.test' => [ '127.0.0.2', '127.0.0.3' ]);
becomes('app', { 2 => [ 0, 6 ], 3 => [ 1, 0 ] }, 'one more');
get($port, '/') for 1 .. 8;
ok wait_until(5, sub { my $is = known('app'); $is->{2}[1] + $is->{3}[1] == 14 && $is->{3}[1] >= 3 }), 'counted from its first request' or diag explain known('app');
my $second = known('app')->{3};
$dns->say('app.test' => [ '127.0.0.2', '127.0.0.4' ]);
ok wait_until(10, sub { my $is = known('app'); join(' ', sort keys %$is) eq '2 4' && $is->{4}[0] == 2 }), 'another has another number' or diag explain known('app');
$dns->say('app.test' => [ '127.0.0.3', '127.0.0.4' ]);
ok wait_until(10, sub { my $is = known('app'); join(' ', sort keys %$is) eq '3 4' }), 'one comes back';
is_deeply known('app')->{3}, $second, 'as it was known';

# One that goes while it serves.
my $held = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port", Timeout => 5) or die;
print {$held} "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n";
ok wait_until(5, sub { (group('slow')->{peers}[0] || {})->{active} }), 'serves';
$dns->say('slow.test' => ['127.0.0.4']);
ok wait_until(10, sub { my $is = known('slow'); join(' ', keys %$is) eq '4' }), 'is gone';
is group('slow')->{zombies}, 1, 'and still serves';
is group('app')->{zombies}, 0, 'in its own group';
close $held;
ok wait_until(5, sub { group('slow')->{zombies} == 0 }), 'no more';

ok $gateway->reload, 'reload';
ok wait_until(5, sub { my $is = known('app'); $is->{3} && "@{ $is->{3} }" eq "@$second" }), 'numbers and counts stay' or diag explain known('app');
ok $gateway->quit, 'quit';
unlike $gateway->log, qr/\[(?:emerg|alert|crit)\]/, 'nothing bad in the log';

done_testing;
