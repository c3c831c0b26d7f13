# Servers that DNS adds to a group, and takes away, while nginx runs: checked, warmed up, bound to sessions and taken out by
# breakers like all others, without a reload and over reloads.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Dns;
use Sluice::Load;
use Sluice::Run;
use Test::More;
use Time::HiRes qw(sleep time);

my $binary = $ENV{TEST_NGINX_BINARY} || q(nginx);
my ($major, $minor, $patch) = `$binary -v 2>&1` =~ m{nginx/(\d+)\.(\d+)\.(\d+)} or die 'no version';
plan skip_all => 'nginx resolves names of upstreams from 1.27.3 on' if sprintf('%d%03d%03d', $major, $minor, $patch) < 1_027_003;

my ($port, $at) = (free_port(), free_port());
my $log = 'error_log logs/error.log notice;';

# One server for each address, which says its last number; a health document, and an answer, that a test can change.
my $backend = gateway(load => '', http => "log_format l '\$msec \$server_addr \$request_uri \$status';\nroot html;\n" . join '', map {
    "server { listen 127.0.0.$_:$at; location = /health { access_log logs/probes l; try_files /sick-$_ /well =503; }\n"
        . "location / { access_log logs/traffic l; add_header X-Server $_; if (-f \$document_root/broken-$_) { return 500; } return 200 $_; } }\n"
} 2 .. 8);
Sluice::Run::spew("$backend->{dir}/html/well", 'ok');
sub say_of { my ($what, $n) = @_; Sluice::Run::spew("$backend->{dir}/html/$what-$n", 'no') }
sub no_more { my ($what, $n) = @_; unlink "$backend->{dir}/html/$what-$n" }

sub lines {
    my ($name, $n, $uri) = @_;
    open my $file, '<', "$backend->{dir}/logs/$name" or return 0;
    return scalar grep { / 127\.0\.0\.$n \Q$uri\E/ } <$file>;
}

my $dns = dns('app.test' => [ '127.0.0.2', '127.0.0.3' ]);

sub http_conf {
    my $extra = shift // '';
    my $check = 'health_check interval=200ms uri=/health match=ok';
    my %group = (
        plain  => "server app.test:$at resolve; $check;",
        must   => "server app.test:$at resolve; $check mandatory persistent;",
        warm   => "server app.test:$at resolve slow_start=5m; $check mandatory persistent;",
        bound  => "server app.test:$at resolve; sticky cookie sid; $check;",
        broken => "server app.test:$at resolve; circuit_breaker failures=3 open=60s scope=peer max_ejected=50%;",
        backup => "server 127.0.0.1:1 down; server app.test:$at resolve backup; $check mandatory;",
    );
    return "resolver 127.0.0.1:$dns->{port} valid=1s ipv6=off;\nmatch ok { status 200; body ~ ok; }\n"
        . join('', map {"upstream $_ { zone $_ 128k; $group{$_} }\n"} sort keys %group)
        . "server { listen 127.0.0.1:$port; proxy_next_upstream off; $extra " . join('', map {"location /$_ { proxy_pass http://$_; }"} keys %group) . '}';
}

my $gateway = gateway(main => $log, workers => 3, http => http_conf());
my @groups  = qw(plain must warm bound broken backup);

# served($group, $n): who answered $n requests; a hash of counts, "" for anything but 200.
sub served {
    my ($group, $n) = @_;
    my %by;
    for my $answer (burst($n, [$port], "/$group", at_once => 4)) {
        $by{ $answer->{status} == 200 ? $answer->{body} : '' }++;
    }
    return \%by;
}
sub logged { my $what = shift; return scalar(() = $gateway->log =~ /$what/g) }

# Those that were there when nginx first asked.
for my $group (@groups) {
    ok wait_until(8, sub { my $by = served($group, 10); $by->{2} && $by->{3} && !$by->{''} }), "$group: both serve";
}

# One comes that is well, and one that is sick.
say_of(sick => 5);
say_of(broken => 5);
$dns->say('app.test' => [ map {"127.0.0.$_"} 2 .. 5 ]);
ok wait_until(8, sub { logged(qr/127\.0\.0\.5:\d+ is unhealthy: .*?, upstream "(?:plain|must|warm|bound|backup)"/) == 5 }), 'a sick one is found in each group that is checked' or diag $gateway->log;
ok wait_until(5, sub { served($_, 8)->{4} }), "$_: a well one serves" for qw(plain must bound broken backup);
ok wait_until(5, sub { logged(qr/circuit breaker of server 127\.0\.0\.5:\d+ .*open/i) || served('broken', 8) && 0 }), 'a broken one is taken out by its breaker' or diag $gateway->log;
is lines(traffic => 5, "/$_"), 0, "$_: the sick one never got a request" for qw(must warm backup);
{
    my %before = map { $_ => lines(traffic => 5, "/$_") } @groups;
    is served($_, 20)->{''}, undef, "$_: no request to it now" for @groups;
    is lines(traffic => 5, "/$_"), $before{$_}, "$_: none at all" for @groups;
    my $warm = served('warm', 60);
    cmp_ok $warm->{4} // 0, '<=', 3, 'slow_start: it has only begun to warm up';
    cmp_ok $warm->{2} // 0, '>=', 20, 'and the others serve';
}

# Sessions are bound to one that came later, and fail over when it leaves.
my ($answer) = grep { body_of($_) eq '4' } map { get($port, '/bound') } 1 .. 30;
my ($cookie) = (header_of($answer, 'Set-Cookie') // '') =~ /(sid=\w+)/;
is_deeply [ map { body_of(get($port, '/bound', Cookie => $cookie)) } 1 .. 8 ], [ (4) x 8 ], 'sticky: bound to a server that came later';
$dns->say('app.test' => [ '127.0.0.2', '127.0.0.3' ]);
ok wait_until(8, sub { !served('plain', 10)->{4} }), 'it leaves';
ok wait_until(5, sub { body_of(get($port, '/bound', Cookie => $cookie)) =~ /[23]/ }), 'the session goes on elsewhere';
sleep 0.5;
{
    my $probes = lines(probes => 4, '/health') + lines(probes => 5, '/health');
    my $others = lines(probes => 2, '/health');
    ok wait_until(5, sub { lines(probes => 2, '/health') >= $others + 6 }), 'the others are probed on';
    is lines(probes => 4, '/health') + lines(probes => 5, '/health'), $probes, 'and those that have left no more';
}

# The sick one is back and well; it must pass first, and its verdict is not forgotten at once.
no_more(sick => 5);
no_more(broken => 5);
my $since = length $gateway->log;
$dns->say('app.test' => [ map {"127.0.0.$_"} 2, 3, 5 ]);
ok wait_until(8, sub { served('must', 8)->{5} }), 'back and well: it serves';
like substr($gateway->log, $since), qr/127\.0\.0\.5:\d+ is healthy, upstream "must"/, 'once it has passed';

# Over reloads, with one sick: not a request, and newcomers are looked after in the new cycle as in the old.
say_of(sick => 3);
ok wait_until(5, sub { logged(qr/127\.0\.0\.3:\d+ is unhealthy/) == 5 }), 'one falls sick';
{
    my %before = map { $_ => lines(traffic => 3, "/$_") } @groups;
    my @answers;
    for my $round (1 .. 3) {
        my $child = fork // die;
        if (!$child) { POSIX::_exit($gateway->reload(main => $log, workers => 3, http => http_conf("set \$round $round;")) ? 0 : 1) }
        until (waitpid($child, POSIX::WNOHANG()) == $child) { push @answers, burst(4, [$port], "/$_", at_once => 2) for qw(plain must bound) }
        is $?, 0, "reload $round";
        push @answers, burst(6, [$port], "/$_", at_once => 2) for qw(plain must bound);
    }
    is count_of(200, @answers), scalar @answers, @answers . ' requests over three reloads, all answered';
    is lines(traffic => 3, "/$_"), $before{$_}, "$_: none by the sick one" for qw(plain must bound);
}
no_more(sick => 3);
say_of(sick => 7);
$dns->say('app.test' => [ map {"127.0.0.$_"} 2, 3, 5, 6, 7 ]);
ok wait_until(8, sub { served($_, 10)->{6} }), "$_: one that comes after a reload serves" for qw(plain must bound);
ok wait_until(8, sub { logged(qr/127\.0\.0\.7:\d+ is unhealthy/) == 5 }), 'and a sick one is found';
is lines(traffic => 7, '/must'), 0, 'before its first request';

# Any worker may die: the one that asks DNS too.
kill 'KILL', $_ for $gateway->workers;
ok wait_until(5, sub { 3 == (() = $gateway->workers) }), 'all workers die at once';
no_more(sick => 7);
ok wait_until(8, sub { served('must', 10)->{7} }), 'their successors find it well';
say_of(sick => 8);
$dns->say('app.test' => [ map {"127.0.0.$_"} 2, 3, 8 ]);
ok wait_until(8, sub { logged(qr/127\.0\.0\.8:\d+ is unhealthy/) == 5 }), 'and look after newcomers';
$dns->say('app.test' => []);
ok wait_until(8, sub { status_of(get($port, '/plain')) == 502 }), 'a name that is gone: nobody is left';
$dns->say('app.test' => ['127.0.0.2']);
ok wait_until(8, sub { status_of(get($port, '/must')) == 200 }), 'and it comes back';
unlike $gateway->log, qr/\[(?:emerg|crit)\]|panic|internal error|looked after/, 'nothing bad in the log';
ok $gateway->quit, 'quit';

# More servers than the zone has room for: said once, and those without a record get nothing where a check must pass first.
{
    my $many = dns('many.test' => [ map {"127.0.1.$_"} 1 .. 200 ]);
    my $http = "resolver 127.0.0.1:$many->{port} valid=1s ipv6=off; sluice_zone 32k; upstream u { zone u 1m; server many.test:$at resolve;\n"
        . join('', map {"health_check interval=20s uri=/$_ mandatory;\n"} 1 .. 3) . "} server { listen 127.0.0.1:$port; location / { proxy_pass http://u; } }";
    my $small = gateway(main => $log, workers => 2, http => $http);
    ok wait_until(8, sub { $small->log =~ /\[alert\].* upstream "u" is not looked after in full: no room for another health check in \d+ health checks and 0 circuit breakers, raise "sluice_zone"/ }), 'a zone too small says so' or diag $small->log;
    is status_of(get($port, '/')), 502, 'nobody unchecked gets a request';
    $many->say('many.test' => [ map {"127.0.0.$_"} 2 .. 3 ]);
    sleep 3;
    my $said = () = $small->log =~ /looked after/g;
    cmp_ok $said, '<=', 2, 'once by each worker';
    ok $small->quit, 'quit';
}

done_testing;
