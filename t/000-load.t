# The module loads into this nginx, and goes through its life: start, requests, reload, a killed worker, quit, stop.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Run;
use Test::More;

my $port = free_port();
my $http = "server { listen 127.0.0.1:$port; location / { return 200 ok; } }";

my ($status, $said) = nginx_t(http => $http);
is $status, 0, 'nginx -t accepts a configuration with the module and none of its directives' or diag $said;

my $gateway = gateway(http => $http, workers => 2);
is body_of(get($port, '/')), 'ok', 'requests are served';

for my $round (1 .. 3) {
    ok $gateway->reload, "reload $round: the old workers are gone";
    is body_of(get($port, '/')), 'ok', "reload $round: requests are served";
}

my ($worker) = $gateway->workers;
kill 'KILL', $worker;
ok wait_until(5, sub { my @now = $gateway->workers; @now == 2 && !grep { $_ == $worker } @now }), 'a killed worker is replaced';
is body_of(get($port, '/')), 'ok', 'requests are served after it';

ok $gateway->quit, 'QUIT ends it';
unlike $gateway->log, qr/\[(?:emerg|crit|error)\]|panic|exited on signal (?!9)/, 'nothing bad in its log';

# A refused configuration leaves nothing behind in the master, of which workers are made.
my $zone    = 'rate_limit_zone one zone=one:1m rate=99r/s burst=99;';
my $limited = "server { listen 127.0.0.1:$port; location / { rate_limit zone=one nodelay; empty_gif; } }";
my $third   = gateway(http => "$zone $limited", workers => 1);
Sluice::Run::write_conf($third->{dir}, http => "$zone upstream u { server 127.0.0.1:1; health_check match=none; } $limited", workers => 1);
$third->signal('HUP');
ok wait_until(5, sub { $third->log =~ /unknown match "none"/ }), 'a reload is refused';
my ($old) = $third->workers;
kill 'KILL', $old;
ok wait_until(5, sub { my @now = $third->workers; @now == 1 && $now[0] != $old }), 'a worker killed after that is replaced';
is header_of(get($port, '/'), 'X-RateLimit-Limit'), 99, 'by one that knows what to do';
ok $third->quit, 'QUIT ends it';

my $second = gateway(http => $http, workers => 2);
ok $second->quit('TERM'), 'TERM ends it';
unlike $second->log, qr/\[(?:emerg|alert|crit|error)\]|panic|exited on signal/, 'nothing bad in its log';

done_testing;
