# Fifty reloads under load, with servers added, removed and moved, and addresses in two groups: no request is lost, and none
# goes to a sick server.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Backends;
use Sluice::Load;
use Sluice::Run;
use Test::More;

my $b    = backends(6);
my $log  = 'error_log logs/error.log notice;';
my $port = free_port();

# Two groups of some of the servers each; 5 is sick and in all of them, 1 is well and in all of them.
sub http_conf {
    my $round  = shift;
    my @others = grep { ($round >> ($_ - 2)) & 1 } 2 .. 4;
    my @one    = (1, @others, 5);
    my @two    = (5, reverse(grep { $_ != 3 } @others), 1, $round % 7 ? () : 6);
    my $line   = sub { join ' ', map { "server 127.0.0.1:" . $b->port($_) . ($round % 3 ? '' : ' slow_start=1s') . ';' } @_ };
    my $check  = 'health_check interval=200ms uri=/health match=ok';
    my $extra  = $round % 5 ? '' : "upstream third { zone third 64k; random two; @{[ $line->(@two) ]} health_check interval=200ms uri=/health?third match=ok; }";
    return <<"EOT";
        match ok { status 200; json \$.checks.database.status = ok; }
        upstream one { zone one 64k; @{[ $line->(@one) ]} $check; circuit_breaker scope=peer; }
        upstream two { @{[ $line->(@two) ]} $check; }
        server { listen 127.0.0.1:$port; proxy_next_upstream off; location /one { proxy_pass http://one; } location /two { proxy_pass http://two; } }
EOT
}

$b->sick(5);
my $gateway = gateway(main => $log, workers => 2, http => http_conf(0));
ok wait_until(5, sub { 2 == (() = $gateway->log =~ /is unhealthy/g) }), 'the sick server is out of both groups';
my $before = $b->traffic(5);

my $child = fork // die;
if (!$child) {
    my $bad = 0;
    for my $round (1 .. 50) { $bad++ unless $gateway->reload(main => $log, workers => 2, http => http_conf($round)) }
    POSIX::_exit($bad);
}
my ($count, $retried, @bad) = (0, 0);
until (waitpid($child, POSIX::WNOHANG()) == $child) {
    for my $path ('/one', '/two') {
        my @some = burst(8, [$port], $path, at_once => 4);
        # A worker that leaves may close a connection before it has read the request: clients try again.
        $retried += my @unread = grep { !$_->{status} } @some;
        push @some, burst(1, [$port], $path) for @unread;
        $count += @some;
        push @bad, grep { $_->{status} && $_->{status} != 200 } @some;
        push @bad, grep { !$_->{status} } @some[ 8 .. $#some ];
    }
}
is $?, 0, 'fifty reloads, each with new workers only in the end';
cmp_ok $count, '>', 500, "$count requests meanwhile";
is scalar(@bad), 0, "none lost ($retried sent twice)" or diag explain \@bad;
is $b->traffic(5) - $before, 0, 'none to the sick server';
is scalar(() = $gateway->log =~ /127\.0\.0\.1:@{[ $b->port(5) ]} is unhealthy/g), 2, 'it was never found sick again';
unlike $gateway->log, qr/\[(?:alert|emerg|crit)\]|panic/, 'nothing bad in the log';
ok $gateway->quit, 'quit';

done_testing;
