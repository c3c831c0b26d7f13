# circuit_breaker scope=peer: one server out, whatever the balancer; its test requests; max_ejected; and what combines with it.
use strict;
use warnings;
use lib 't/lib';
use IO::Socket::INET;
use Sluice::Load;
use Sluice::Run;
use Test::More;
use Time::HiRes qw(sleep time);

my $port = free_port();
my @back = map { free_port() } 1 .. 4;
my $info = 'error_log logs/error.log info;';

# Each backend says its number; while html/fail-PORT is there it answers 502, while html/hang-PORT is, it
# takes a second, and while html/sick-PORT is, /health says so.
my $backend = gateway(load => '', http => "log_format port '\$server_port \$request_method \$uri';\nroot html;\nclient_max_body_size 9m;\n" . join '', map { <<"SERVER" } 0 .. $#back);
server {
    listen 127.0.0.1:$back[$_];
    access_log logs/traffic port;
    location /health {
        access_log off;
        if (-f \$document_root/sick-$back[$_]) { return 503; }
        return 200;
    }
    location / {
        if (-f \$document_root/fail-$back[$_]) { return 502; }
        if (-f \$document_root/hang-$back[$_]) { set \$limit_rate 400; return 200 "@{[ $_ + 1 ]}@{[ 'x' x 900 ]}"; }
        return 200 @{[ $_ + 1 ]};
    }
}
SERVER
# at($n): its address, for patterns.
sub at { quotemeta "127.0.0.1:$back[ $_[0] - 1 ]" }
sub mark   { my ($what, $n) = @_; Sluice::Run::spew("$backend->{dir}/html/$what-$back[$n - 1]", 'x') }
sub unmark { my ($what, $n) = @_; unlink "$backend->{dir}/html/$what-$back[$n - 1]" }

# hits($n): requests that backend $n has answered, once that number stays for a while.
sub hits {
    my $n = shift;
    my $count = sub { open my $log, "<", "$backend->{dir}/logs/traffic" or return 0; my $port = $back[ $n - 1 ]; scalar grep { index($_, "$port ") == 0 } <$log> };
    my ($hits, $same) = ($count->(), 0);
    while ($same < 3) {
        select undef, undef, undef, 0.02;
        my $now = $count->();
        $same = $now == $hits ? $same + 1 : 0;
        $hits = $now;
    }
    return $hits;
}

my %own;    # a port for each group, for those who cannot say a Host

sub group {
    my ($name, $words, %of) = @_;
    my $own = $own{$name} ||= free_port();
    my $servers = join ' ', map {"server 127.0.0.1:$back[$_ - 1] max_fails=0;"} @{ $of{servers} || [ 1, 2, 3 ] };
    my ($zone, $before, $after) = (exists $of{zone} ? $of{zone} : "zone $name 128k;", $of{before} || '', $of{after} || '');
    return "upstream $name { $zone $before $servers $after circuit_breaker scope=peer $words; @{[ $of{more} || '' ]} }\n"
        . "server { listen 127.0.0.1:$port; listen 127.0.0.1:$own; server_name $name; location / { proxy_pass http://$name; proxy_next_upstream error http_502 non_idempotent; "
        . "proxy_http_version 1.1; proxy_set_header Connection ''; access_log logs/state.log state; @{[ $of{location} || '' ]} } }\n";
}

# from($name, $count, …): how often each backend answered; anything but 200 by its status.
sub from {
    my ($name, $count, @more) = @_;
    my %from;
    for (1 .. $count) {
        my $answer = get($port, "/?$_", Host => $name, @more);
        $from{ status_of($answer) == 200 ? substr body_of($answer), 0, 1 : status_of($answer) }++;
    }
    return \%from;
}
sub is_spread { my ($from, @servers) = @_; return join(' ', sort keys %$from) eq join ' ', @servers }

my $rule = 'failures=3 window=10s open=1s';
my %balancers = (
    rr         => {},
    nozone     => { zone => '' },
    least      => { before => 'least_conn;' },
    hash       => { before => 'hash $arg_k$request_uri;' },
    consistent => { before => 'hash $request_uri consistent;' },
    iphash     => { before => 'ip_hash;' },
    random     => { before => 'random two;' },
    keepalive  => { after => 'keepalive 8;' },
    leastkeep  => { before => 'least_conn;', after => 'keepalive 8;', zone => '' },
);
my $http = "log_format state '\$status \$upstream_status \$upstream_addr';\n" . join '', map { group($_, $rule, %{ $balancers{$_} }) } sort keys %balancers;
my $gateway = gateway(http => $http, workers => 2, main => $info);

for my $name (sort keys %balancers) {
    my @all = $name eq 'iphash' ? () : (1, 2, 3);
    # ip_hash sends this client to one server: that one fails.
    my ($bad) = $name eq 'iphash' ? keys %{ from($name, 1) } : (1);
    my @rest = grep { $_ != $bad } 1 .. 3;
    ok is_spread(from($name, 40), @all), "$name: all servers" if @all;
    mark(fail => $bad);
    my $before = hits($bad);
    my $seen = from($name, 60);
    ok !exists $seen->{502} && !exists $seen->{$bad}, "$name: clients notice nothing" or diag explain $seen;
    # Workers without a zone choose apart, but the breaker is one: both may be on their way at the third failure.
    my $failed = hits($bad) - $before;
    ok $failed >= 3 && $failed <= 4, "$name: three failures, then it is out" or diag $failed;
    like $gateway->log, qr/\[warn\] .*circuit breaker of server @{[ at($bad) ]} of upstream "$name" is open for 1\.0 s: 3 failures in \d+\.\d+ s, last http_502/, "$name: log";
    sleep 1.05;
    $before = hits($bad);
    ok !exists from($name, 30)->{502}, "$name: half-open, clients notice nothing";
    is hits($bad), $before + 1, "$name: one test request, which fails";
    like $gateway->log, qr/circuit breaker of server @{[ at($bad) ]} of upstream "$name" is open for 1\.0 s: test request failed, last http_502/, "$name: log";
    unmark(fail => $bad);
    is hits($bad), $before + 1, "$name: no traffic while open";
    sleep 1.05;
    # A hash knows forty addresses here, and some are this server's.
    ok wait_until(5, sub { from($name, 40)->{$bad} }), "$name: it is back";
    like $gateway->log, qr/circuit breaker of server @{[ at($bad) ]} of upstream "$name" is closed: test request passed/, "$name: log";
    ok is_spread(from($name, 40), @all), "$name: all servers again" if @all;
}
ok $gateway->quit, 'quit';
unlike $gateway->log, qr/\[(?:emerg|crit|alert)\]|panic|exited on signal/, 'nothing bad in the log';

# However many ask at the instant it becomes half-open, over four workers: as many as may reach it, nobody sees it.
{
    my $words = 'failures=2 window=10s open=700ms';
    my $stats = free_port();
    $gateway = gateway(workers => 4, main => $info, http => "log_format state '\$status';\nserver { listen 127.0.0.1:$stats; location / { metrics; } }\n"
        . group('burst', $words) . group('burstkeep', $words, after => 'keepalive 16;', zone => '')
        . group('two', "$words half_open=2") . group('single', $words, servers => [1])
        . group('pair', $words, servers => [ 1, 2 ]) . group('most', $words, servers => [ 1, 2, 3, 4 ], before => 'least_conn;')
        . group('low', "$words max_ejected=0%", servers => [ 1, 2, 3, 4 ]) . group('full', "$words max_ejected=100%", servers => [ 1, 2, 3, 4 ])
        . group('dry', "$words dry_run") . group('row', 'failures=0 consecutive=4 open=700ms')
        . group('both', 'failures=3 window=10s open=20s', more => 'circuit_breaker failures=2 window=10s open=20s;')
        . group('lease', "$words lease=900ms") . group('safe', "$words half_open_via=safe")
        . group('safekeep', "$words half_open_via=safe", after => 'keepalive 8;')
        . group('safeleast', "$words half_open_via=safe", before => 'least_conn;', after => 'keepalive 8;', zone => '')
        . group('safehash', "$words half_open_via=safe", before => 'hash $request_uri consistent;')
        . group('saferandom', "$words half_open_via=safe", before => 'random two least_conn;', after => 'keepalive 8;')
        . group('backup', $words, servers => [1], before => "server 127.0.0.1:$back[1] backup max_fails=0;"));
    like $gateway->log, qr/upstream "single" has one server, which is never taken out/, 'a group of one server is told of';
    for (['burst', 1], ['burstkeep', 1], ['two', 2]) {
        my ($name, $permits) = @$_;
        from($name, 12);
        mark(fail => 1);
        wait_until(5, sub { from($name, 4); $gateway->log =~ /of upstream "$name" is open/ }) or fail "$name opens";
        unmark(fail => 1);
        mark(hang => 1);
        sleep 0.75;
        my $before = hits(1);
        my @answers = burst(200, [ $own{$name} ], '/', at_once => 200);
        is count_of(200, @answers), 200, "$name: 200 at once are all answered";
        is scalar(grep { $_->{body} =~ /^1x/ } @answers), $permits, "$name: $permits by the server that is half-open";
        is hits(1), $before + $permits, "$name: which saw no other";
        unmark(hang => 1);
        ok wait_until(5, sub { from($name, 6)->{1} }), "$name: and closed";
    }

    # max_ejected, and never the last one.
    mark(fail => $_) for 1 .. 4;
    is_deeply from('pair', 8), { 502 => 8 }, 'pair: both fail';
    my ($one, $two) = (hits(1), hits(2));
    from('pair', 8);
    is_deeply [ sort { $a <=> $b } hits(1) - $one, hits(2) - $two ], [ 0, 8 ], 'pair: one is out, the last one is not';
    like $gateway->log, qr/\[warn\] .*of server \S+ of upstream "pair" stays closed: 2 failures in \d+\.\d+ s, last http_502, but no other server would be left/, 'pair: log';
    from('pair', 40);
    my $told = () = $gateway->log =~ /of upstream "pair" stays closed/g;
    cmp_ok $told, '<=', 4, 'pair: told once per window and worker, not at each failure';
    my %out = (most => 2, low => 1, full => 3);
    for my $name (sort keys %out) {
        from($name, 12);
        my @before = map { hits($_) } 1 .. 4;
        from($name, 6);
        my @after = map { hits($_) } 1 .. 4;
        is scalar(grep { $after[$_] == $before[$_] } 0 .. 3), $out{$name}, "$name: $out{$name} of four are out";
    }
    like $gateway->log, qr/of upstream "low" stays closed: [^\n]* but as many servers as may be are out/, 'low: log';
    my $metrics = body_of(get($stats, '/'));
    for (['pair', 'last_peer'], ['full', 'last_peer'], ['low', 'max_open'], ['most', 'max_open']) {
        my ($name, $cause) = @$_;
        my %of = map { $_ => 0 } qw(last_peer max_open dry_run);
        $of{$1} += $2 while $metrics =~ /^nginx_circuit_breaker_suppressed_total\{scope="peer",upstream="$name",peer="[^"]+",cause="(\w+)"\} (\d+)$/mg;
        is_deeply [ grep { $of{$_} } sort keys %of ], [$cause], "$name: $cause";
    }
    unmark(fail => $_) for 1 .. 4;
    is_deeply from('single', 1), { 1 => 1 }, 'single: well';
    mark(fail => 1);
    is_deeply from('single', 6), { 502 => 6 }, 'single: all six reach it';
    is_deeply from('backup', 8), { 2 => 8 }, 'backup: takes over';
    $one = hits(1);
    is_deeply from('backup', 4), { 2 => 4 }, 'backup: alone';
    is hits(1), $one, 'backup: the primary is out';
    unmark(fail => 1);
    sleep 0.75;
    is_deeply from('backup', 4), { 1 => 4 }, 'backup: the primary is back';

    # A dry run takes nothing out; a success ends a run.
    mark(fail => 1);
    $one = hits(1);
    is_deeply [ sort keys %{ from('dry', 30) } ], [ 2, 3 ], 'dry_run: retries rescue';
    is hits(1) - $one, 10, 'dry_run: it is asked as ever';
    like $gateway->log, qr/of server \S+ of upstream "dry" would be open for 0\.7 s: 2 failures .*, dry run/, 'dry_run: log';
    from('row', 9);
    unmark(fail => 1);
    from('row', 3);
    mark(fail => 1);
    from('row', 9);
    unlike $gateway->log, qr/of upstream "row" is open/, 'consecutive: broken off';
    from('row', 3);
    like $gateway->log, qr/of upstream "row" is open for 0\.7 s: 4 failures in a row/, 'consecutive: four';

    # A retry that rescues: the server's breaker counts it, the group's does not.
    is_deeply [ sort keys %{ from('both', 30) } ], [ 2, 3 ], 'both: rescued';
    like $gateway->log, qr/of server @{[ at(1) ]} of upstream "both" is open/, 'both: the server is out';
    unlike $gateway->log, qr/breaker of upstream "both" is open/, 'both: the group is not';
    unmark(fail => 1);

    # The holder of the permit leaves, or its worker dies, or the backend hangs past the lease.
    for my $how ('client leaves', 'worker dies', 'backend hangs') {
        mark(fail => 1);
        my $seen = () = $gateway->log =~ /upstream "lease" is open/g;
        wait_until(5, sub { from('lease', 4); my $now = () = $gateway->log =~ /upstream "lease" is open/g; $now > $seen }) or fail 'lease opens';
        unmark(fail => 1);
        mark(hang => 1);
        sleep 0.75;
        my $before = hits(1);
        # Three requests, one for each server; one of them is the test.
        my @clients = map {
            my $socket = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port") or die;
            print {$socket} "GET / HTTP/1.1\r\nHost: lease\r\n\r\n";
            $socket;
        } 1 .. 12;
        sleep 0.2;
        ok !exists from('lease', 12)->{1}, "$how: meanwhile nobody else tests it";
        if ($how eq 'worker dies') {
            my @workers = $gateway->workers;
            kill 'KILL', @workers;
            wait_until(5, sub { my @now = $gateway->workers; @now == 4 && !grep { my $w = $_; grep { $_ == $w } @workers } @now });
        }
        unmark(hang => 1);
        close $_ for $how eq 'backend hangs' ? () : @clients;
        ok wait_until(3, sub { from('lease', 6)->{1} }), "$how: another may test";
    }

    # Only requests that change nothing test; the others go elsewhere.
    for my $name ('safe', 'safekeep', 'safeleast', 'safehash', 'saferandom') {
        from($name, 30);
        mark(fail => 1);
        wait_until(5, sub { from($name, 30); $gateway->log =~ /upstream "$name" is open/ }) or fail "$name opens";
        unmark(fail => 1);
        sleep 0.75;
        $one = hits(1);
        for my $method (qw(POST PUT DELETE PATCH)) {
            my $from = from($name, 30, method => $method, body => 'x');
            ok is_spread($from, 2, 3), "$name: no $method tests it" or diag explain $from;
        }
        is hits(1), $one, "$name: it saw nothing";
        ok wait_until(3, sub { from($name, 30, method => 'HEAD'); hits(1) > $one }), "$name: HEAD does";
        ok wait_until(3, sub { from($name, 30, method => 'POST', body => 'x')->{1} }), "$name: POST again";
    }
    ok $gateway->quit, 'quit';
    unlike $gateway->log, qr/\[(?:emerg|crit)\]|panic|exited on signal (?!9)/, 'nothing bad in the log';
}

# Reload: who is out stays out, whatever moved.
{
    my $http = sub { "log_format state '\$status';\n" . group('kept', 'failures=2 window=10s open=20s', servers => [@_]) };
    $gateway = gateway(workers => 2, main => $info, http => $http->(1, 2, 3));
    mark(fail => 2);
    from('kept', 12);
    unmark(fail => 2);
    for my $order ([ 1, 2, 3 ], [ 3, 2, 1 ], [ 2, 1, 3, 4 ], [ 4, 2, 3 ]) {
        ok $gateway->reload(workers => 2, main => $info, http => $http->(@$order)), "reload as @$order";
        my $before = hits(2);
        my @answers = burst(60, [ $own{kept} ], '/', at_once => 20);
        is count_of(200, @answers), 60, 'all answered';
        is hits(2), $before, 'the one that is out saw nothing';
    }
    ok $gateway->reload(workers => 2, main => $info, http => $http->(2)), 'alone in its group';
    is_deeply from('kept', 3), { 2 => 3 }, 'the only one is used';
    ok $gateway->quit, 'quit';
}

# A check and a breaker each have a bit of their own: neither brings back what the other has out.
{
    my $check = 'health_check interval=100ms uri=/health;';
    $gateway = gateway(workers => 2, main => $info, http => "log_format state '\$status';\n" . group('checked', 'failures=2 window=10s open=1500ms', more => $check));
    my $verdict = sub {
        my ($n, $says) = @_;
        $says eq 'sick' ? mark(sick => $n) : unmark(sick => $n);
        my ($word, $at) = ($says eq 'sick' ? 'unhealthy' : 'healthy', at($n));
        my $lines = sub { my $count = () = $gateway->log =~ /server $at is $word\b/g; $count };
        my $before = $lines->();
        ok wait_until(5, sub { $lines->() > $before }), "$n is $word";
    };
    is_deeply [ sort keys %{ from('checked', 9) } ], [ 1, 2, 3 ], 'all well';
    mark(fail => 1);
    from('checked', 12);
    unmark(fail => 1);
    ok !from('checked', 9)->{1}, 'out by its breaker';
    $verdict->(1, 'sick');
    $verdict->(1, 'well');
    ok !from('checked', 9)->{1}, 'a check that passes does not bring it back';
    $verdict->(1, 'sick');
    sleep 1.55;
    ok !from('checked', 9)->{1}, 'nor does the end of OPEN, while the check fails';
    $verdict->(1, 'well');
    ok wait_until(3, sub { from('checked', 6)->{1} }), 'then it is back';
    mark(fail => 1);
    from('checked', 12);
    unmark(fail => 1);
    $verdict->($_, 'sick') for 2, 3;
    is_deeply from('checked', 4), { 1 => 4 }, 'when nothing else is left, its breaker keeps nobody out';
    ok $gateway->quit, 'quit';
    unlike $gateway->log, qr/\[(?:emerg|crit|alert)\]|panic|exited on signal/, 'nothing bad in the log';
    unmark(sick => $_) for 2, 3;
}

# half_open_via=probe: the check decides, and no client is the guinea pig.
{
    my $words = 'failures=2 window=10s open=700ms half_open_via=probe';
    my $check = 'health_check interval=100ms fails=1000 uri=/health;';
    $gateway = gateway(workers => 2, main => $info, http => "log_format state '\$status';\n" . group('probed', $words, more => $check)
        . "upstream whole { zone whole 64k; server 127.0.0.1:$back[3] max_fails=0; circuit_breaker $words; health_check interval=100ms uri=/health; }\n"
        . "server { listen 127.0.0.1:$port; server_name whole; location / { proxy_pass http://whole; } }\n");
    mark($_ => 1) for 'fail', 'sick';
    from('probed', 12);
    my $before = hits(1);
    ok wait_until(3, sub { $gateway->log =~ /of server @{[ at(1) ]} of upstream "probed" is open for 0\.7 s: test request failed/ }), 'a probe fails';
    ok !from('probed', 12)->{1}, 'no client is sent there';
    unmark($_ => 1) for 'fail', 'sick';
    ok wait_until(3, sub { $gateway->log =~ /of server @{[ at(1) ]} of upstream "probed" is closed: test request passed/ }), 'a probe passes';
    is hits(1), $before, 'and no client was';
    ok from('probed', 9)->{1}, 'now they are';

    mark($_ => 4) for 'fail', 'sick';
    # Two answers of the backend, or what the check has found meanwhile.
    is_deeply [ keys %{ from('whole', 2) } ], [502], 'whole: two failures';
    is_deeply from('whole', 2), { 503 => 2 }, 'whole: open';
    sleep 0.75;
    is_deeply from('whole', 5), { 503 => 5 }, 'whole: no client tests it';
    unmark($_ => 4) for 'fail', 'sick';
    ok wait_until(3, sub { $gateway->log =~ /of upstream "whole" is closed: test request passed/ }), 'whole: a probe does';
    is_deeply from('whole', 2), { 4 => 2 }, 'whole: closed';
    ok $gateway->quit, 'quit';
}

done_testing;
