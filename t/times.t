# $gateway_time and $upstream_time: where the milliseconds of a request went.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Run;
use Test::More;

# /slow takes a good 400 ms for its body; the other server answers 502.
my $slow = backend(server => 'location / { set $limit_rate 400; return 200 ' . 'x' x 590 . '; }');
my $bad  = backend(server => 'location / { return 502; }');
my $port = free_port();

my $gateway = gateway(http => <<"HTTP");
log_format times '\$uri|\$gateway_time|\$upstream_time|\$request_time|\$upstream_response_time';
rate_limit_zone \$server_port zone=slow:64k rate=4r/s burst=5;
upstream slow { server 127.0.0.1:$slow->{port}; }
upstream retried { server 127.0.0.1:$bad->{port}; server 127.0.0.1:$slow->{port} backup; }
server {
    listen 127.0.0.1:$port;
    access_log logs/times times;
    add_header X-Gateway-Time \$gateway_time always;
    add_header X-Upstream-Time \$upstream_time always;
    location / { return 200 ok; }
    location /slow { proxy_pass http://slow; }
    location /retried { proxy_pass http://retried; proxy_next_upstream http_502; }
    location /held { rate_limit zone=slow; try_files /none =204; }
}
HTTP

# logged($uri): what the log says of its last request, as soon as it does.
my $lines = 0;
sub logged {
    my $uri = shift;
    my @log;
    wait_until(5, sub { open my $file, '<', "$gateway->{dir}/logs/times" or return 0; @log = <$file>; @log > $lines });
    $lines = @log;
    chomp(my $line = $log[-1]);
    my ($at, $own, $theirs, $all, $core) = split /\|/, $line;
    is $at, $uri, "$uri is logged";
    my $sum = 0;
    $sum += 1000 * $_ for $core =~ /\d+\.\d+/g;
    return ($own, $theirs, sprintf('%.0f', 1000 * $all), sprintf('%.0f', $sum));
}

# Both sides have clocks of their own, each read to the millisecond.
my ($own, $theirs, $all, $core);
sub is_whole { cmp_ok abs($own + $theirs - $all), '<=', 2, $_[0] }

my $answer = get($port, '/');
is header_of($answer, "X-$_-Time"), 0, "without an upstream, $_ took no time" for 'Gateway', 'Upstream';
($own, $theirs, $all, $core) = logged('/');
is "$own $theirs", "$all 0", 'all of it is ours without an upstream';

$answer = get($port, '/slow');
like header_of($answer, "X-$_-Time"), qr/^\d+$/, "$_ has whole milliseconds" for 'Gateway', 'Upstream';
($own, $theirs, $all, $core) = logged('/slow');
cmp_ok $theirs, '>=', 400, 'the upstream took its time';
is $theirs, $core, 'as the core says';
is_whole('and together it is the whole request');

get($port, '/retried');
($own, $theirs, $all, $core) = logged('/retried');
cmp_ok $theirs, '>=', 400, 'over two attempts';
is $theirs, $core, 'the sum of both';
is_whole('and the whole request');

get($port, '/held');
logged('/held');
get($port, '/held');
($own, $theirs, $all) = logged('/held');
cmp_ok $own, '>=', 150, 'what a limit holds back is time in the gateway';
is "$own $theirs", "$all 0", 'all of it';

done_testing;
