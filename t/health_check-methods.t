# Every balancing method, with and without zone, backup servers and kept connections: through five reloads under load a sick
# server gets not one request.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Load;
use Sluice::Run;
use Test::More;
use Time::HiRes qw(time);

my @methods = ('', 'least_conn;', 'ip_hash;', 'hash $arg_k;', 'hash $arg_k consistent;', 'random;', 'random two;');
# Groups: name => [lines before the servers, whether there may be a backup server].
my %groups;
for my $number (0 .. $#methods) {
    $groups{"m$number"}  = [ $methods[$number], $number < 2 ];
    $groups{"z$number"}  = [ "zone z$number 64k; $methods[$number]", $number < 2 ];
}
$groups{kept}  = [ 'zone kept 64k; least_conn; keepalive 8;', 1 ];
$groups{plain} = [ 'keepalive 4;',                            1 ];
my @names = sort keys %groups;

# Servers 1 to 3 serve, 4 and 5 are sick, 6 is the backup and sick too.
my @ports   = map { free_port() } 1 .. 6;
my $backend = gateway(load => '', http => "log_format t '\$server_port \$request_uri';\nroot html;\nkeepalive_requests 100000;\n"
        . join '', map {"server { listen 127.0.0.1:$ports[$_ - 1]; location = /health { try_files /sick-$_ /well =503; } location / { access_log logs/traffic t; return 200 $_; } }\n"} 1 .. 6);
Sluice::Run::spew("$backend->{dir}/html/well", 'ok');
my ($port, $log) = (free_port(), 'error_log logs/error.log notice;');

sub http_conf {
    my @order = @_;
    my $http = "match ok { status 200; body ~ ^ok; }\n";
    for my $name (@names) {
        my ($lines, $backup) = @{ $groups{$name} };
        my $servers = join ' ', map {"server 127.0.0.1:$ports[$_ - 1];"} @order;
        $servers .= " server 127.0.0.1:$ports[5] backup;" if $backup;
        $http .= "upstream $name { $lines $servers health_check interval=250ms uri=/health match=ok; }\n";
    }
    return $http . "server { listen 127.0.0.1:$port; proxy_next_upstream off; proxy_http_version 1.1; proxy_set_header Connection '';\n"
        . join('', map {"location /$_ { proxy_pass http://$_; }\n"} @names) . "}\n";
}

sub traffic {
    my $at = $ports[ $_[0] - 1 ];
    open my $file, '<', "$backend->{dir}/logs/traffic" or return;
    return grep {/^$at /} <$file>;
}

Sluice::Run::spew("$backend->{dir}/html/sick-$_", 'sick') for 4 .. 6;
my $gateway = gateway(main => $log, workers => 2, http => http_conf(1 .. 5));
my $sick    = 2 * @names + grep { $groups{$_}[1] } @names;
ok wait_until(8, sub { $sick == (() = $gateway->log =~ /is unhealthy/g) }), "$sick sick servers found in " . @names . ' groups' or diag $gateway->log;
my %before = map { $_ => scalar(() = traffic($_)) } 4 .. 6;

my (@answers, %answered);
my $turn = 0;
my @order = 1 .. 5;
for my $round (1 .. 5) {
    push @order, shift @order;
    my $child = fork // die;
    if (!$child) { POSIX::_exit($gateway->reload(main => $log, workers => 2, http => http_conf($round % 2 ? @order : reverse @order)) ? 0 : 1) }
    my ($over, $more) = (0, 3 * @names);
    # Until the old workers have left, and each group three times after that.
    until ($over && $more <= 0) {
        my $name = $names[ $turn++ % @names ];
        my @some = burst(4, [$port], "/$name?k=$turn", at_once => 4);
        # A worker that leaves may close a connection before it has read the request.
        @some = map { $_->{status} ? $_ : burst(1, [$port], "/$name?k=$turn") } @some;
        push @answers, @some;
        $answered{$name} += count_of(200, @some);
        $over ||= waitpid($child, POSIX::WNOHANG()) == $child;
        $more-- if $over;
    }
    is $?, 0, "reload $round";
}
is count_of(200, @answers), scalar @answers, @answers . ' requests, all answered';
is scalar(grep { $answered{$_} >= 60 } @names), scalar @names, 'by each group';
is scalar(() = traffic($_)) - $before{$_}, 0, "none by sick server $_" for 4 .. 6;
is $sick, scalar(() = $gateway->log =~ /is unhealthy/g), 'and none was found sick again';
unlike $gateway->log, qr/\[(?:alert|emerg|crit)\]|panic/, 'nothing bad in the log';
ok $gateway->quit, 'quit';

done_testing;
