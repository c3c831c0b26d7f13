# Servers that are added, changed and taken away for 20 seconds by several clients at once, under load, under every method, with
# keepalive, checks and breakers, while nginx reloads: no request fails, no worker dies, and what is left is what was said.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Run;
use Sluice::Load;
use JSON::PP;
use Test::More;
use Time::HiRes ();

plan skip_all => 'a long test: scripts/test --long' if !$ENV{TEST_SLUICE_LONG};

my ($port, @ports) = map { free_port() } 1 .. 6;
my @backends = map { my $p = $_; backend(port => $p, server => "location / { return 200 '$p'; }") } @ports;
my ($base, @others) = @ports;
my %method = (rr => '', least => 'least_conn;', hash => 'hash $arg_k;', chash => 'hash $arg_k consistent;', random => 'random two;', ip => 'ip_hash;', keep => 'keepalive 8;',
    checked => 'health_check interval=200ms; circuit_breaker scope=peer failures=9;', sticky => 'sticky cookie s;');
my $groups  = join "\n", map {"upstream $_ { zone $_ 512k; server 127.0.0.1:$base; $method{$_} }"} sort keys %method;
my $gateway = gateway(workers => 2, main => 'error_log logs/error.log notice; worker_shutdown_timeout 5s;', http => <<"CONF");
$groups
server {
    listen 127.0.0.1:$port;
    location /api { api write=on; allow 127.0.0.1; deny all; }
    location / { proxy_pass http://\$arg_u; proxy_next_upstream off; }
}
CONF

sub api {
    my ($method, $path, $body) = @_;
    my %of = (method => $method);
    @of{qw(body Content-Type)} = (encode_json($body), 'application/json') if defined $body;
    # A worker that a reload is about to replace changes nothing any more: it says so, and its successor does.
    my $answer;
    for (1 .. 100) {
        $answer = get($port, "/api/9/http/upstreams/$path", %of);
        last if status_of($answer) && status_of($answer) != 503;
        Time::HiRes::sleep(0.02);
    }
    return (status_of($answer), eval { decode_json(body_of($answer)) });
}
my ($status) = api(POST => 'rr/servers', { server => '127.0.0.1:1', down => JSON::PP::true });
plan skip_all => 'this nginx cannot add servers' if $status == 400;

my $seconds = 20;
my @kids    = map {
    my $mine = $_;
    my $pid  = fork // die "fork: $!\n";
    if (!$pid) {
        srand $mine;
        my $until = Time::HiRes::time() + $seconds;
        while (Time::HiRes::time() < $until) {
            my $group = (sort keys %method)[ rand keys %method ];
            my ($status, $server) = api(POST => "$group/servers/", { server => "127.0.0.1:$mine", weight => 1 + int rand 4, rand() < 0.3 ? (slow_start => '1s') : () });
            next if $status != 201 && $status != 400;
            api(PATCH => "$group/servers/$server->{id}", { weight => 1 + int rand 9, down => rand() < 0.3 ? JSON::PP::true : JSON::PP::false }) if $status == 201;
            api(DELETE => "$group/servers/$server->{id}") if $status == 201;
        }
        POSIX::_exit(0);
    }
    $pid;
} @others;
my ($began, $reloads, $n, %status) = (Time::HiRes::time(), 0, 0);
while (Time::HiRes::time() < $began + $seconds) {
    my $group = (sort keys %method)[ $n++ % keys %method ];
    $status{ $_->{status} }++ for burst(40, [$port], "/?u=$group&k=$n", at_once => 8);
    if (Time::HiRes::time() > $began + 3 * ($reloads + 1)) { $reloads++; $gateway->signal('HUP') }
}
waitpid $_, 0 for @kids;
diag explain { %status, reloads => $reloads };
my $good = delete $status{200};
cmp_ok $good, '>', 1000, 'a load of requests';
is_deeply \%status, {}, 'and none of them fails';
ok wait_until(15, sub { 2 == $gateway->workers }), 'two workers';
for my $group (sort keys %method) {
    my ($status, $servers) = api(GET => "$group/servers");
    is_deeply [ grep { !/:(?:$base|1)$/ } map { $_->{server} } @$servers ], [], "$group has its own servers" or do {
        my ($left) = grep { !/:(?:$base|1)$/ } map { $_->{server} } @$servers;
        diag join '', (grep { /\Q$left\E/ && /upstream "$group"/ } split /^/m, $gateway->log)[ -6 .. -1 ];
        next;
    };
    is body_of(get($port, "/?u=$group")), $base, 'and they serve';
}
unlike $gateway->log, qr/exited on signal|\[(alert|emerg|crit)\]/, 'nothing untoward in the log' or diag join '', grep { /exited on signal|panicked|unwind|^[^2]|\[(alert|emerg|crit)\]/ } split /^/m, $gateway->log;
done_testing();
