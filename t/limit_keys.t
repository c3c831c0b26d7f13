# Keys of any length and any bytes: each is its own, none reaches Redis as it is, and none makes an error; nor does a zone with more
# keys than it has room for.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Load;
use Sluice::Oracle;
use Sluice::Run;
use Test::More;

my $redis = redis();
my ($port, $h2) = (free_port(), free_port());
my @zones = map {
    my ($algorithm, $rate) = @$_;
    "rate_limit_zone \$arg_k zone=small-$algorithm:32k rate=$rate algorithm=$algorithm;\n"
        . "rate_limit_zone \$arg_k zone=small-$algorithm-redis:32k rate=$rate algorithm=$algorithm redis=main;\n";
} [ 'gcra', '1r/h' ], [ 'sliding_window', '1r/h' ], [ 'fixed_window', '1r/1000d' ];
my @small = map { ($_, "$_-redis") } map {"small-$_"} qw(gcra sliding_window fixed_window);
my $small = join '', map {"location = /$_ { rate_limit zone=$_; empty_gif; }\n"} @small;
my $gateway = gateway(main => 'error_log logs/error.log warn;', workers => 1, http => <<"CONF");
redis main { server 127.0.0.1:$redis->{port}; timeout 2s; breaker failures=1000; }
large_client_header_buffers 4 1100k;
merge_slashes off;
rate_limit_log_level info;
# Two requests of each key, at once.
rate_limit_zone \$uri                   zone=uri-local:1m    rate=1r/h burst=1;
rate_limit_zone \$uri                   zone=uri-redis:1m    rate=1r/h burst=1 redis=main;
rate_limit_zone \$http_x_key            zone=head-local:1m   rate=1r/h burst=1;
rate_limit_zone \$http_x_key            zone=head-redis:1m   rate=1r/h burst=1 redis=main;
rate_limit_zone \$binary_remote_addr    zone=binary-local:1m rate=1r/h burst=1;
rate_limit_zone \$binary_remote_addr    zone=binary-redis:1m rate=1r/h burst=1 redis=main;
rate_limit_zone \$arg_k                 zone=a:1m            rate=1r/h burst=1 redis=main;
rate_limit_zone \$arg_k                 zone=a.b:1m          rate=1r/h burst=1 redis=main;
rate_limit_zone \$arg_a\$arg_b          zone=parts:1m        rate=1r/h burst=1 redis=main;
@zones
add_header S \$rate_limit_status:\$rate_limit_source always;
server {
    listen 127.0.0.1:$port;
    listen 127.0.0.1:$h2 http2;
    keepalive_requests 100000;
    set_real_ip_from 127.0.0.1;
    real_ip_header X-From;
    location /uri-local    { rate_limit zone=uri-local nodelay; empty_gif; }
    location /uri-redis    { rate_limit zone=uri-redis nodelay; empty_gif; }
    location /head-local   { rate_limit zone=head-local nodelay; empty_gif; }
    location /head-redis   { rate_limit zone=head-redis nodelay; empty_gif; }
    location /binary-local { rate_limit zone=binary-local nodelay; empty_gif; }
    location /binary-redis { rate_limit zone=binary-redis nodelay; empty_gif; }
    location /a            { rate_limit zone=a nodelay; empty_gif; }
    location /a.b          { rate_limit zone=a.b nodelay; empty_gif; }
    location /parts        { rate_limit zone=parts nodelay; empty_gif; }
    $small
}
CONF
ok wait_until(10, sub { header_of(get($port, '/a?k=' . rand), 'S') eq 'PASSED:redis' }), 'Redis is reached';

# three(CODE): the statuses of three equal requests.
sub three {
    my ($code, @statuses) = @_;
    push @statuses, status_of($code->()) while @statuses < 3;
    return "@statuses";
}
sub limited { my ($name, $code) = @_; is three($code), '200 200 429', "$name: two of three" }

# Decoded from the URI: line ends, RESP, braces, what is no UTF-8, and names that differ in one byte.
my %uri = (
    'CRLF'           => '%0d%0a',
    'RESP'           => '*3%0d%0a$3%0d%0aSET%0d%0a$4%0d%0aevil%0d%0a$1%0d%0a1%0d%0a',
    'inline command' => '%0d%0aFLUSHALL%0d%0aSET evil 1%0d%0a' =~ s/ /%20/gr,
    'braces'         => '%7bx%7dalice',
    'other braces'   => '%7bx%7dbob',
    'closing first'  => '%7d%7b',
    'no UTF-8'       => '%ff%fe%80%c0%af',
    'other bytes'    => '%ff%fe%80%c0%ae',
    'control'        => '%01%02%1f%7f',
    'quotes'         => q(%22'%5c%22$arg_k%24%7bx%7d),
    'Lua'            => '%22%5d%5d)%20redis.call(%22FLUSHALL%22)',
    'spaces'         => '%20%09%20',
    'long'           => 'x' x 60_000,
    'as long'        => 'x' x 59_999 . 'y',
    'megabyte'       => 'x' x 1_000_000,
);
ask($redis->{port}, qw(SET mine 1));
for my $where (qw(local redis)) {
    limited("$where: $_", sub { get($port, "/uri-$where/$uri{$_}") }) for sort keys %uri;
    limited("$where: a header of 64 kB",  sub { get($port, "/head-$where", 'X-Key' => 'x' x 65_536) });
    limited("$where: one byte else",      sub { get($port, "/head-$where", 'X-Key' => 'x' x 65_535 . 'y') });
    limited("$where: one byte less",      sub { get($port, "/head-$where", 'X-Key' => 'x' x 65_535) });
    limited("$where: a header of 1 MB",   sub { get($port, "/head-$where", 'X-Key' => 'x' x 1_048_576) });
    limited("$where: bytes above 127",    sub { get($port, "/head-$where", 'X-Key' => "\xff\xfe") });
    # Four bytes with NUL among them, sixteen in a row of NUL.
    limited("$where: NUL, $_", sub { get($port, "/binary-$where", 'X-From' => $_) }) for qw(10.0.0.1 10.0.0.2 0.0.0.0 0.0.0.1 10.0.1.0);
    limited("$where: NUL, $_", sub { get($port, "/binary-$where", 'X-From' => $_) }) for qw(:: ::1 1:: 1::1);
    is header_of(get($port, "/head-$where"), 'S'), 'BYPASSED:', "$where: no key, no limit";
    is three(sub { get($port, "/head-$where", 'X-Key' => '') }), '200 200 200', "$where: an empty key, no limit";
}
limited('zone a, key .b:c',  sub { get($port, '/a?k=.b:c') });
limited('zone a.b, key c',   sub { get($port, '/a.b?k=c') });
limited('zone a.b, key :c',  sub { get($port, '/a.b?k=:c') });
limited('two parts: x and yz', sub { get($port, '/parts?a=x&b=yz') });
is status_of(get($port, '/parts?a=xy&b=z')), 429, 'two parts that join to one key are one key: as written';

my $keys = ask($redis->{port}, 'KEYS', '*');
is ask($redis->{port}, qw(GET mine)), 1, 'nobody flushed Redis';
is_deeply [ grep { $_ ne 'mine' && !m{^sluice:[\w.:{}/-]+$} } @$keys ], [], 'nothing but our keys, in plain letters, of ' . @$keys;
cmp_ok length((sort { length $b <=> length $a } @$keys)[0]), '<', 120, 'and short ones';
is scalar(grep {/evil|alice|bob|xxxx/} @$keys), 0, 'none holds what a client sent';

# More keys than the smallest zone has room for: all answered; the newest is limited; what Redis knows stays exact.
for my $zone (@small) {
    my $n = $zone =~ /sliding/ ? 400 : 2500;
    my @answers = arrivals([ map { [ $_ / 1700, $port, "/$zone?k=" . ($_ % 20 ? $_ : 'hot') ] } 1 .. $n ]);
    my @hot = grep { $_->{path} =~ /hot/ } @answers;
    is scalar(grep { $_->{status} !~ /^(?:200|429)$/ } @answers), 0, "$zone: $n keys, all answered";
    is count_of(200, @answers) - count_of(200, @hot), @answers - @hot, "$zone: all new ones admitted";
    is count_of(200, burst(3, [$port], "/$zone?k=new")), 1, "$zone: the newest is limited";
    is count_of(200, @hot), 1, "$zone: one key is limited exactly however many others there are" if $zone =~ /redis/;
    is count_of(200, map { burst(1, [$port], "/$zone?k=$_") } 1 .. 19), 0, "$zone: and Redis forgets none" if $zone =~ /redis/;
}

SKIP: {
    skip 'curl with HTTP/2 is not installed', 8 if `curl --version 2>/dev/null` !~ /HTTP2/;
    my $curl = "curl -s --http2-prior-knowledge --max-time 10 -o /dev/null -w 'HTTP/1.1 %{http_code}'";
    my $long = 'y' x 60_000; # curl sends no more than 64 kB
    my $file = "$gateway->{dir}/head";
    Sluice::Run::spew($file, "X-Key: $long\n");
    for my $where (qw(local redis)) {
        limited("HTTP/2, $where: RESP",   sub { `$curl 'http://127.0.0.1:$h2/uri-$where/h2*1%0d%0a\$8%0d%0aFLUSHALL'` });
        limited("HTTP/2, $where: no UTF-8", sub { `$curl 'http://127.0.0.1:$h2/uri-$where/h2%ff%fe'` });
        limited("HTTP/2, $where: 60 kB",  sub { `$curl -H \@$file 'http://127.0.0.1:$h2/head-$where'` });
        is header_of(get($port, "/head-$where", 'X-Key' => $long), 'S') =~ /REJECTED/ ? 1 : 0, 1, "$where: the same key over HTTP/1.1";
    }
}
ok $gateway->quit, 'QUIT ends it';
unlike $gateway->log, qr/\[(?:emerg|alert|crit)\]|panic|exited on signal/, 'nothing bad in its log';
done_testing;
