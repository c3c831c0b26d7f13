# health_check and servers that answer as no server should: a verdict with its reason, in bounded time and memory, and requests
# that feel nothing of it.
use strict;
use warnings;
use lib 't/lib';
use File::Temp ();
use Sluice::Run;
use Test::More;
use Time::HiRes 'time';

# What is said of each kind of server; all are asked for a JSON document, with a timeout of half a second.
my %wanted = (
    (map { $_ => 'is healthy' } qw(length chunked nolength http10 continue slow)),
    garbage => 'is unhealthy: invalid HTTP version parsed',
    gzip    => 'is unhealthy: json $.status: wanted a body without encoding, got encoded_body "gzip"',
    short   => 'is unhealthy: connection closed before the answer was complete',
    silence => 'is unhealthy: connection closed before the answer was complete',
    reset   => 'is unhealthy: connection failed: Connection reset by peer',
    hang    => 'is unhealthy: timed out after 500 ms while waiting for the response header',
    drip    => 'is unhealthy: timed out after 500 ms while waiting for the response header',
    headers => 'is unhealthy: response header is too large',
    body    => 'is unhealthy: json $.status: wanted a whole document, got body_too_large',
    interim => 'is unhealthy: response header is too large',
);
my $dir    = File::Temp::tempdir(CLEANUP => 1);
my %ports  = map { $_ => free_port() } keys %wanted;
my $server = Sluice::Run::run('python3', 't/lib/hostile-backend.py', $dir, map {"$_=$ports{$_}"} sort keys %ports);
ok wait_until(10, sub { -e "$dir/ready" }), 'the servers run';

my $port = free_port();
my $http = join '', map {
    my $interval = $_ eq 'slow' ? '100ms' : '500ms';
    "upstream $_ { server 127.0.0.1:$ports{$_}; health_check mandatory interval=$interval timeout=500ms match=healthy; }\n"
} sort keys %ports;
my $gateway = gateway(main => 'error_log logs/error.log notice;', http => <<"EOT");
    match healthy { status 200; json \$.status = healthy; }
    $http
    server { listen 127.0.0.1:$port; location / { return 200 here; } }
EOT
for my $kind (sort keys %wanted) {
    ok wait_until(10, sub { $gateway->log =~ /upstream server 127\.0\.0\.1:$ports{$kind} \Q$wanted{$kind}\E.*, upstream "$kind"/ }), "$kind: $wanted{$kind}"
        or diag grep {/"$kind"/} split /^/, $gateway->log;
}

# memory($pid): resident kilobytes of a worker.
sub memory {
    open my $file, '<', "/proc/$_[0]/status" or return 0;
    return (map {/^VmRSS:\s+(\d+)/} <$file>)[0] // 0;
}

my ($worker) = $gateway->workers;
my $before = memory($worker);
my ($slowest, $answered, $begun) = (0, 0, time);
while (time < $begun + 3) {
    my $asked = time;
    $answered += status_of(get($port, '/')) == 200;
    $slowest = time - $asked if time - $asked > $slowest;
    Time::HiRes::sleep(0.01);
}
cmp_ok $answered, '>', 50, 'requests are answered meanwhile';
cmp_ok $slowest, '<', 0.5, 'none waits for a probe';
cmp_ok memory($worker) - $before, '<', 8 * 1024, 'what the servers send is not kept';

# One probe at a time, in phase: those that are due while one is under way are left out.
my @slow = do { open my $file, '<', "$dir/slow"; <$file> };
cmp_ok scalar(@slow), '>=', 5, 'the slow server is probed';
is scalar(grep {/overlap/} @slow), 0, 'and never twice at a time';
my @at = map {/^(\S+)/} @slow;
my @gaps = grep { $_ < 0.37 || $_ > 0.55 } map { $at[$_] - $at[ $_ - 1 ] } 1 .. $#at;
cmp_ok scalar(@gaps), '<=', @at / 4, 'every fourth interval, for an answer that takes three and a half' or diag "@at";
unlike $gateway->log, qr/[^\n\x20-\x7e]/, 'what a server sends is escaped in the log';
ok $gateway->quit, 'quit';
unlike $gateway->log, qr/\[(?:emerg|alert|crit)\]/, 'nothing bad in the log';

# jitter: probes are put off at random. Without it they are an interval apart.
my @row = map { free_port() } 1, 2;
my $backend = gateway(load => '', http => "log_format at '\$msec \$request_uri';\n"
        . join '', map {"server { listen 127.0.0.1:$_; location / { access_log logs/at at; return 200; } }\n"} @row);
$gateway = gateway(http => "upstream even { server 127.0.0.1:$row[0]; health_check interval=100ms uri=/even; }\n"
        . "upstream odd { server 127.0.0.1:$row[1]; health_check interval=100ms jitter=80ms uri=/odd; }\n");
my $times = sub {
    open my $file, '<', "$backend->{dir}/logs/at" or return;
    return map { /^(\S+) \/$_[0]$/ ? $1 : () } <$file>;
};
ok wait_until(10, sub { $times->('odd') >= 20 && $times->('even') >= 20 }), 'probed';
my %spread;
for my $uri (qw(odd even)) {
    my @at = ($times->($uri))[ 0 .. 19 ];
    my @off = sort { $a <=> $b } map { my $gap = $at[$_] - $at[ $_ - 1 ]; abs($gap - 0.1) } 1 .. 19;
    $spread{$uri} = $off[9];
    my $span = $at[19] - $at[0];
    ok $span > 1.7 && $span < 2.6, "$uri: the interval is kept on the whole" or diag $span;
}
cmp_ok $spread{odd}, '>', 0.01, 'with jitter they are off the beat';
cmp_ok $spread{even}, '<', 0.01, 'without it they are on it';
ok $gateway->quit, 'quit';

done_testing;
