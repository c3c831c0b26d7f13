# drain: no new sessions, only those bound to the server; with every method, through reloads.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Backends;
use Sluice::Run;
use Test::More;

my $log = 'error_log logs/error.log notice;';
my $b   = backends(3);
my @at  = map { '127.0.0.1:' . $b->port($_) } 1 .. 3;

# answers($port, $path, $count): how many came from each backend, and `502` and the like.
sub answers {
    my ($port, $path, $count) = @_;
    my %from;
    for (1 .. $count) {
        my $answer = get($port, $path);
        $from{ status_of($answer) == 200 ? body_of($answer) : status_of($answer) }++;
    }
    return \%from;
}

my @methods = ('', 'least_conn;', 'hash $request_id;', 'hash $request_id consistent;', 'random;', 'random two;', 'keepalive 4;', 'least_conn; keepalive 4;');
my $port    = free_port();

# http($drain): the second server of each group with this parameter.
sub http {
    my $drain = shift;
    my ($n, $http, $locations) = (0, '', '');
    for my $zone (0, 1) {
        for my $method (@methods) {
            my $name = 'g' . $n++;
            my $in = $zone ? "zone $name 64k;" : '';
            $http .= "upstream $name { $in $method sticky route \$arg_r; server $at[0] route=a; server $at[1] route=b $drain; server $at[2] route=c; }\n";
            $locations .= "location /$name { proxy_pass http://$name; }\n";
        }
    }
    $http .= "upstream plain { server $at[0]; server $at[1] $drain; } upstream one { server $at[1] $drain route=b; sticky route \$arg_r; }\n"
        . "upstream backup { server $at[0] down; server $at[1] backup $drain route=b; server $at[2] backup; sticky route \$arg_r; }\n"
        . "match ok { status 200; json \$.checks.database.status = ok; } upstream sick { zone sick 64k; server $at[0]; server $at[1] $drain route=b; sticky route \$arg_r; health_check interval=50ms uri=/health match=ok; }\n";
    $http .= "upstream fails { server $at[0]; server 127.0.0.1:1 max_fails=0 $drain route=b; sticky route \$arg_r; }\n";
    return "$http server { listen 127.0.0.1:$port; $locations location /plain { proxy_pass http://plain; } location /fails { proxy_pass http://fails; } location /one { proxy_pass http://one; } location /backup { proxy_pass http://backup; } location /sick { proxy_pass http://sick; } }";
}

my $gateway = gateway(main => $log, workers => 2, http => http('drain'));
for my $n (0 .. 2 * @methods - 1) {
    my $what = ($n < @methods ? '' : 'zone, ') . ($methods[ $n % @methods ] || 'round robin');
    my $from = answers($port, "/g$n", 16);
    ok !$from->{2} && $from->{1} && $from->{3} && $from->{1} + $from->{3} == 16, "$what: no new session" or diag explain $from;
    is_deeply answers($port, "/g$n?r=b", 4), { 2 => 4 }, "$what: bound ones";
}
is_deeply answers($port, '/plain', 8), { 1 => 8 }, 'without sticky: nobody';
is_deeply answers($port, '/one', 1), { 502 => 1 }, 'the only server: nobody new';
is_deeply answers($port, '/one?r=b', 4), { 2 => 4 }, 'but bound ones';
is_deeply answers($port, '/backup', 4), { 3 => 4 }, 'a backup: nobody new';
is_deeply answers($port, '/backup?r=b', 4), { 2 => 4 }, 'but bound ones';
is_deeply answers($port, '/fails?r=b', 4), { 1 => 4 }, 'the server of a session fails: another, without an error';
is_deeply answers($port, '/sick?r=b', 4), { 2 => 4 }, 'bound and healthy';
$b->sick(2);
ok wait_until(5, sub { (answers($port, '/sick?r=b', 4)->{1} || 0) == 4 }), 'bound and unhealthy: another';
ok $gateway->reload, 'reload';
is_deeply answers($port, '/sick?r=b', 4), { 1 => 4 }, 'still another';
$b->well_again(2);
ok wait_until(5, sub { (answers($port, '/sick?r=b', 4)->{2} || 0) == 4 }), 'healthy again: bound again';
is_deeply answers($port, '/sick', 4), { 1 => 4 }, 'and still nobody new';
ok $gateway->reload(main => $log, workers => 2, http => http('')), 'reload without drain';
ok answers($port, '/plain', 8)->{2} >= 2, 'it has its share again';
ok answers($port, "/g$_", 24)->{2}, "g$_: it has new sessions" for 0, 3, 4, 8, 15;
ok $gateway->reload(main => $log, workers => 2, http => http('drain')), 'reload with drain';
is_deeply answers($port, '/plain', 8), { 1 => 8 }, 'and again nobody';
unlike $gateway->log, qr/\[(?:emerg|alert|crit)\]/, 'nothing bad in the log';
ok $gateway->quit, 'quit';

# Mistakes: nginx -t names what is wrong, and where.
for my $row ([ 'server 127.0.0.1:1 drain=on;', 'invalid value "on" of "drain", no value expected' ], [ 'server 127.0.0.1:1 drained;', 'invalid parameter "drained"' ], [ 'server drain;', 'host not found in upstream "drain"' ]) {
    my ($text, $message) = @$row;
    my ($status, $said) = nginx_t(http => "\nupstream u {\n\n$text\n}");
    ok $status != 0 && $said =~ /\[emerg\].*\Q$message\E.* in \S+nginx\.conf:12$/m, $text or diag "$status: $said";
}

done_testing;
