# circuit_breaker scope=peer beside drain, sticky, degraded servers, panic_threshold and slow_start: who stays, and who is the last.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Run;
use Test::More;
use Time::HiRes qw(sleep time);

my ($port, @back) = map { free_port() } 0 .. 4;

# Each backend says its number, and 502 while html/fail-PORT is there; while html/sick-PORT or html/weak-PORT is, its
# health document says so.
my $backend = gateway(load => '', http => "root html;\n" . join '', map { <<"SERVER" } 0 .. $#back);
server {
    listen 127.0.0.1:$back[$_];
    location /health { if (-f \$document_root/sick-$back[$_]) { return 503; } if (-f \$document_root/weak-$back[$_]) { return 200 weak; } return 200 well; }
    location / { if (-f \$document_root/fail-$back[$_]) { return 502; } return 200 @{[ $_ + 1 ]}; }
}
SERVER
my @at = map {"127.0.0.1:$_"} @back;
sub file   { "$backend->{dir}/html/$_[0]-$back[$_[1] - 1]" }
sub mark   { Sluice::Run::spew(file(@_), 'x') }
sub unmark { unlink file(@_) }

my ($groups, $locations) = ('', '');
sub group {
    my ($name, $text, @servers) = @_;
    $groups    .= "upstream $name { $text @{[ map {\"server $_ max_fails=0;\"} @servers ]} }\n";
    $locations .= "location /$name { proxy_pass http://$name; }\n";
}

# answers($path, $count): how many came from each backend, or with which status; who(…): from whom.
sub answers {
    my ($path, $count) = @_;
    my %from;
    for (1 .. $count) {
        my $answer = get($port, $path);
        $from{ status_of($answer) == 200 ? body_of($answer) : status_of($answer) }++;
    }
    return \%from;
}
sub who { return join ' ', sort keys %{ answers(@_) } }
# opens($name, $n): the breaker of that server opens, under requests for $path.
sub opens {
    my ($log, $name, $n, $path) = @_;
    ok wait_until(5, sub { answers($path || "/$name", 4); $log->() =~ /server @{[ quotemeta $at[$n - 1] ]} of upstream "$name" is open/ }), "$name: the breaker of $n opens";
}
sub becomes {
    my ($path, $wanted, $what) = @_;
    my $is = '';
    ok wait_until(5, sub { ($is = who($path, 16)) eq $wanted }), "$path: $what" or diag "$is, not $wanted";
}

my $rule  = 'circuit_breaker scope=peer failures=2 window=10s open=1m max_ejected=100%;';
my $short = 'circuit_breaker scope=peer failures=2 window=10s open=300ms max_ejected=100%;';
my $later = 'circuit_breaker scope=peer failures=2 window=10s open=2s max_ejected=100%;';
my $check = 'health_check interval=50ms uri=/health match=ok;';
my $match = "match ok { status 200; degraded { body ~ weak; } }\n";
for ('', 'zone') {
    my $zone = sub { $_ ? "zone $_[0]$_ 128k;" : '' };
    group("drains$_",   $zone->('drains') . "sticky route \$arg_r; $rule",              "$at[0] drain route=a", "$at[1] route=b");
    group("bound$_",    $zone->('bound') . "least_conn; keepalive 4; sticky route \$arg_r; $rule", "$at[0] route=a", "$at[1] route=b", "$at[2] route=c");
    group("cookie$_",   $zone->('cookie') . "sticky cookie id; $rule",                  "$at[0] route=a", "$at[1] route=b");
    group("degraded$_", $zone->('degraded') . "keepalive 4; $rule $check",              @at[ 0, 1 ]);
    group("all$_",      $zone->('all') . "panic_threshold 60%; $rule $check",           @at);
    group("few$_",      $zone->('few') . "panic_threshold 60%; $later $check",          @at);
    group("none$_",     $zone->('none') . "panic_threshold 60% mode=none; $rule",       @at);
    group("backup$_",   $zone->('backup') . "panic_threshold 60%; $rule",               @at[ 0, 1 ], "$at[2] backup");
    group("slow$_",     $zone->('slow') . $short,                                       "$at[0] slow_start=3s", $at[1]);
}
my $gateway = gateway(main => 'error_log logs/error.log notice;', workers => 2,
    http => "$match $groups proxy_next_upstream error http_502 non_idempotent; server { listen 127.0.0.1:$port; $locations }");
my $log = sub { $gateway->log };

for my $zone ('', 'zone') {
    # A server that drains may be taken out, for another is left; that other may not, for new sessions have no other.
    {
        my $name = "drains$zone";
        is who("/$name", 8), '2', "$name: new sessions";
        is who("/$name?r=a", 8), '1', "$name: bound ones";
        mark(fail => 2);
        ok wait_until(5, sub { answers("/$name", 4); $log->() =~ /server \Q$at[1]\E of upstream "$name" stays closed: 2 failures/ }), "$name: the last for new sessions stays"
            or diag $log->();
        is who("/$name", 4), '502', "$name: though it fails";
        unmark(fail => 2);
        mark(fail => 1);
        opens($log, $name, 1, "/$name?r=a");
        unmark(fail => 1);
        is who("/$name?r=a", 8), '2', "$name: the sessions of one that is out go elsewhere";
        is who("/$name", 8), '2', "$name: as new ones do";
    }

    # Sessions of a server that is out: another server, no error; a new cookie.
    {
        my $name = "bound$zone";
        is_deeply answers("/$name?r=a", 6), { 1 => 6 }, "$name: bound";
        mark(fail => 1);
        opens($log, $name, 1, "/$name?r=a");
        unmark(fail => 1);
        is who("/$name?r=a", 12), '2 3', "$name: out, its sessions are spread over the others";
        is_deeply answers("/$name?r=b", 6), { 2 => 6 }, "$name: other sessions stay";
        $name = "cookie$zone";
        my ($cookie) = map { header_of($_, 'Set-Cookie') =~ /^(id=\w+)/ } grep { body_of($_) eq '1' } map { get($port, "/$name") } 1 .. 4;
        is body_of(get($port, "/$name", Cookie => $cookie)), 1, "$name: bound" for 1 .. 3;
        mark(fail => 1);
        ok wait_until(5, sub { get($port, "/$name", Cookie => $cookie); $log->() =~ /\Q$at[0]\E of upstream "$name" is open/ }), "$name: opens";
        unmark(fail => 1);
        my $answer = get($port, "/$name", Cookie => $cookie);
        is body_of($answer), 2, "$name: out, another serves";
        my ($new) = (header_of($answer, 'Set-Cookie') || '') =~ /^(id=\w+)/;
        ok $new && $new ne $cookie, "$name: which has the session from now on";
    }

    # A degraded server is one that is left: it serves alone once the breaker has taken the healthy one out.
    {
        my $name = "degraded$zone";
        mark(weak => 2);
        becomes("/$name", '1', 'a degraded server waits');
        mark(fail => 1);
        my $seen = answers("/$name", 40);
        ok !$seen->{502}, "$name: clients notice nothing" or diag explain $seen;
        like $log->(), qr/server \Q$at[0]\E of upstream "$name" is open/, "$name: the healthy one is out";
        unmark(fail => 1);
        is_deeply answers("/$name", 8), { 2 => 8 }, "$name: the degraded one serves";
        unmark(weak => 2);
        sleep 0.2;
        is_deeply answers("/$name", 8), { 2 => 8 }, "$name: a breaker does not mind the checks";
    }

    # Panic: those that breakers keep out are not usable; in panic they are sent to.
    {
        my $name = "all$zone";
        is who("/$name", 16), '1 2 3 4', "$name: all usable";
        mark(fail => 1);
        opens($log, $name, 1);
        unmark(fail => 1);
        is who("/$name", 16), '2 3 4', "$name: three of four are enough";
        mark(fail => 2);
        opens($log, $name, 2);
        unmark(fail => 2);
        becomes("/$name", '1 2 3 4', 'two of four: panic, all get requests');
        like $log->(), qr/\[warn\].* upstream is in panic: 2 of 4 servers are usable, requests go to all of them, upstream "$name"/, "$name: log";

        # One unhealthy and one out come to the same. And it ends when the breaker closes.
        $name = "few$zone";
        mark(fail => 1);
        opens($log, $name, 1);
        unmark(fail => 1);
        mark(sick => 2);
        becomes("/$name", '1 2 3 4', 'one out and one unhealthy of four: panic, all get requests');
        ok wait_until(5, sub { answers("/$name", 4); $log->() =~ /server \Q$at[0]\E of upstream "$name" is closed/ }), "$name: closes";
        becomes("/$name", '1 3 4', 'three of four again');
        like $log->(), qr/upstream is no longer in panic, upstream "$name"/, "$name: log";
        unmark(sick => 2);

        $name = "none$zone";
        for my $n (1, 2) {
            mark(fail => $n);
            opens($log, $name, $n);
            unmark(fail => $n);
        }
        becomes("/$name", '502', 'two of four: panic, none gets any');

        $name = "backup$zone";
        mark(fail => $_) for 1, 2;
        opens($log, $name, $_) for 1, 2;
        unmark(fail => $_) for 1, 2;
        becomes("/$name", '3', 'both primary servers are out: the backup serves, as ever');
    }

    # A server whose breaker closes warms up.
    {
        my $name = "slow$zone";
        my $cold = answers("/$name", 40)->{1};
        cmp_ok abs($cold - 20), '<=', 3, "$name: warm at the start";
        mark(fail => 1);
        opens($log, $name, 1);
        unmark(fail => 1);
        sleep 0.35;
        ok wait_until(5, sub { answers("/$name", 2); $log->() =~ /server \Q$at[0]\E of upstream "$name" is closed/ }), "$name: closes";
        my $began = time;
        my $part = answers("/$name", 60)->{1} || 0;
        my $took = time - $began;
        cmp_ok $part, '<=', 3 + 60 * ($took + 0.1) / 3 / 2, "$name: then it begins to warm up: $part of 60 in $took s";
        sleep 3.1 - $took if $took < 3.1;
        cmp_ok abs(answers("/$name", 40)->{1} - 20), '<=', 3, "$name: and is warm";
    }
}

# A reload: who is out stays out, and so does the panic.
ok $gateway->reload, 'reload';
for my $zone ('', 'zone') {
    is who("/all$zone", 16), '1 2 3 4', "all$zone: still in panic";
    is who("/none$zone", 4), '502', "none$zone: still in panic";
    is who("/bound$zone?r=a", 12), '2 3', "bound$zone: still out";
}
ok $gateway->quit, 'quit';
unlike $gateway->log, qr/\[(?:emerg|crit|alert)\]|panicked|exited on signal/, 'nothing bad in the log';
ok $backend->quit, 'quit';
done_testing;
