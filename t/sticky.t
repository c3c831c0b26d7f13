# sticky: cookie, route and learn with every method, inside keepalive whatever the order; failing over without an error.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Backends;
use Sluice::Run;
use Test::More;
use Time::HiRes qw(time sleep);

my $log = 'error_log logs/error.log notice;';
my $b   = backends(3);
my @at  = map { '127.0.0.1:' . $b->port($_) } 1 .. 3;

# Three backends that log connections, hand out sessions, and do what ?do= says.
my @ports = map { free_port() } 1 .. 3;
sub app_conf {
    return "keepalive_requests 100000; log_format connections '\$server_port \$connection \$request_uri';\n" . join '', map {
        my $n = $_ + 1;
        "server { listen 127.0.0.1:$ports[$_]; access_log logs/connections connections; location / { if (\$arg_do = fail$n) { return 500; } if (\$arg_do = drop$n) { return 444; }"
            . "if (\$arg_do = slow) { set \$limit_rate 20; return 200 '$n@{[ 'x' x 60 ]}'; } add_header Set-Cookie \"JSESSIONID=\$request_id\"; add_header X-Up $n; return 200 $n; } }\n"
    } 0 .. 2;
}
my $app = gateway(load => '', http => app_conf());

my @layouts = (
    '', 'least_conn;', 'hash $request_id;', 'hash $request_id consistent;', 'random;', 'random two;', 'ip_hash;',
    'keepalive 8;', 'least_conn; keepalive 8;', 'hash $request_id; keepalive 8;', 'random; keepalive 8;',
    # Here nginx warns that the method is redefined, and keeps no connections.
    'keepalive 8; least_conn;',
);

sub upstream {
    my ($name, $text) = @_;
    my $servers = join ' ', map {"server 127.0.0.1:$ports[$_] route=r@{[ $_ + 1 ]};"} 0 .. 2;
    return "upstream $name { $text $servers }\n";
}

my $cookie = sub { my ($value) = (header_of($_[0], 'Set-Cookie') || '') =~ /^(?:sid)=([^;]*)/; $value };

# Cookies, in each layout, with sticky first and last, with and without a zone.
{
    my ($port, @paths, $http) = (free_port());
    for my $layout (@layouts) {
        for my $order (0, 1) {
            my $name = 'g' . @paths;
            my $zone = $order ? "zone $name 64k;" : '';
            $http .= upstream($name, $order ? "$zone sticky cookie sid; $layout" : "$layout sticky cookie sid;");
            push @paths, [ $name, $order ? "zone; sticky; $layout" : "$layout sticky" ];
        }
    }
    my $locations = join '', map {"location /$_->[0] { proxy_pass http://$_->[0]; }\n"} @paths;
    my $gateway = gateway(main => $log, workers => 2, http => "proxy_http_version 1.1; proxy_set_header Connection ''; proxy_hide_header Set-Cookie; proxy_next_upstream error timeout http_500;\n"
            . "$http server { listen 127.0.0.1:$port; $locations }");
    for (@paths) {
        my ($path, $what) = @$_;
        my $first = get($port, "/$path");
        is $cookie->($first), 'r' . body_of($first), "$what: the cookie is the route";
        my @bound;
        for my $n (1 .. 3) { push @bound, map { body_of(get($port, "/$path", Cookie => "a=b; sid=r$n")) } 1 .. 6 }
        is "@bound", join(' ', map { ($_) x 6 } 1 .. 3), "$what: each session at its server";
        # A server that fails or hangs up: another answers, and becomes the session's.
        for my $do ('fail2', 'drop2') {
            my $answer = get($port, "/$path?do=$do", Cookie => 'sid=r2');
            is status_of($answer), 200, "$what: $do, no error";
            isnt body_of($answer), 2, "$what: $do, another server";
            is $cookie->($answer), 'r' . body_of($answer), "$what: $do, bound anew";
        }
        is status_of(get($port, "/$path", Cookie => 'sid=no-such')), 200, "$what: a cookie of nobody";
    }
    for (grep { $_->[1] =~ /keepalive 8;(?! least)/ } @paths) {
        my ($path, $what) = @$_;
        sleep 0.05;
        get($port, "/$path?reuse=$path", Cookie => 'sid=r1') for 1 .. 20;
        my %connections;
        wait_until(3, sub { %connections = (); my @lines = $app->app_lines("reuse=$path"); $connections{ (split)[1] }++ for @lines; @lines == 20 });
        cmp_ok scalar(keys %connections), '<=', 3, "$what: connections are kept";
    }
    unlike $gateway->log, qr/\[(?:emerg|alert|crit)\]/, 'nothing bad in the log';
    ok $gateway->quit, 'quit';
}

sub Sluice::Run::Nginx::app_lines {
    my ($self, $what) = @_;
    open my $file, '<', "$self->{dir}/logs/connections" or return;
    return grep {/\Q$what\E/} <$file>;
}

# What the cookie looks like; the address is not in it; the same on every gateway and in every order.
{
    my $port = free_port();
    my $http = sub {
        my @servers = map {"server 127.0.0.1:$_;"} @_;
        return "upstream plain { @servers sticky cookie sid; } upstream full { @servers sticky cookie sid expires=1h domain=.\$host path=/shop httponly secure samesite=\$arg_site; }\n"
            . "upstream max { @servers sticky cookie sid expires=max samesite=lax; } upstream down { server 127.0.0.1:1; sticky cookie sid; }\n"
            . "server { listen 127.0.0.1:$port; proxy_hide_header Set-Cookie; location /plain { proxy_pass http://plain; } location /full { proxy_pass http://full; } location /max { proxy_pass http://max; }"
            . "location /down { proxy_pass http://down; } location /own { proxy_pass http://plain; proxy_pass_header Set-Cookie; } location /none { return 200 none; } }";
    };
    my $gateway = gateway(http => $http->(@ports));
    my %id;
    for (1 .. 6) { my $answer = get($port, '/plain'); $id{ $cookie->($answer) } = body_of($answer) }
    is_deeply [ sort values %id ], [ 1, 2, 3 ], 'three servers, three ids';
    is_deeply [ grep { !/^[0-9a-f]{32}$/ } keys %id ], [], 'that are no addresses';
    is header_of(get($port, '/plain'), 'Set-Cookie') =~ /^sid=[0-9a-f]{32}$/, 1, 'and nothing else in the cookie';
    my $full = header_of(get($port, '/full?site=strict', Host => 'a.example'), 'Set-Cookie');
    like $full, qr/^sid=\w+; expires=\w{3}, \d\d-\w{3}-\d\d(?:\d\d)? \d\d:\d\d:\d\d GMT; max-age=3600; domain=\.a\.example; httponly; secure; samesite=strict; path=\/shop$/, 'all attributes';
    unlike header_of(get($port, '/full'), 'Set-Cookie'), qr/samesite/, 'no samesite without a value';
    like header_of(get($port, '/max'), 'Set-Cookie'), qr/^sid=\w+; expires=Thu, 31-Dec-37 23:55:55 GMT; max-age=315360000; samesite=lax$/, 'expires=max';
    is header_of(get($port, '/down'), 'Set-Cookie'), undef, 'no cookie for nobody';
    is header_of(get($port, '/none'), 'Set-Cookie'), undef, 'nor where no group is';
    my $own = get($port, '/own');
    ok $own =~ /^Set-Cookie: JSESSIONID=/m && $own =~ /^Set-Cookie: sid=/m, "beside the server's own";
    ok $gateway->reload(http => $http->(reverse(@ports), 1)), 'reload with the servers in another order';
    for my $id (sort keys %id) {
        is body_of(get($port, '/plain', Cookie => "sid=$id")), $id{$id}, "still at server $id{$id}" for 1, 2;
    }
    my $two = free_port();
    my $other = gateway(http => $http->(@ports) =~ s/listen 127.0.0.1:\d+/listen 127.0.0.1:$two/r);
    is body_of(get($two, '/plain', Cookie => "sid=$_")), $id{$_}, 'another gateway knows it' for keys %id;
    $_->quit for $gateway, $other;
}

# Routes.
{
    my $port    = free_port();
    my $gateway = gateway(http => 'map $cookie_route $route_cookie { ~^.+\.(?<r>\w+)$ $r; }' . upstream('u', 'sticky route $route_cookie $arg_route;')
            . "server { listen 127.0.0.1:$port; location / { proxy_pass http://u; } }");
    is join(' ', map { body_of(get($port, "/?route=r$_")) } 3, 3, 2, 2, 1, 1), '3 3 2 2 1 1', 'the route in the query';
    is join(' ', map { body_of(get($port, '/?route=r1', Cookie => "route=abc.r$_")) } 3, 3, 2), '3 3 2', 'the first that is not empty';
    my %from;
    $from{ body_of(get($port, '/?route=zz')) }++ for 1 .. 9;
    is_deeply \%from, { 1 => 3, 2 => 3, 3 => 3 }, 'no such route: by the method';
    unlike get($port, '/?route=r1'), qr/^Set-Cookie: (?!JSESSIONID)/m, 'no cookie';
    $gateway->quit;
}

# Learnt sessions: created by the answer, found by the request, through a reload and by every worker.
for my $how ('', 'header') {
    my $port = free_port();
    my $http = sub {
        my ($size, $timeout) = @_;
        return upstream('u', "zone u 64k; sticky learn create=\$upstream_cookie_none create=\$upstream_cookie_jsessionid lookup=\$arg_none lookup=\$cookie_jsessionid zone=sessions:$size timeout=$timeout $how;")
            . "server { listen 127.0.0.1:$port; location / { proxy_pass http://u; } }";
    };
    my $gateway = gateway(main => $log, workers => 2, http => $http->('64k', '1h'));
    my %session;
    for (1 .. 30) {
        my $answer = get($port, '/');
        my ($id) = header_of($answer, 'Set-Cookie') =~ /^JSESSIONID=(\w+)/;
        $session{$id} = body_of($answer);
    }
    my $wrong = sub { scalar grep { body_of(get($port, '/', Cookie => "JSESSIONID=$_")) != $session{$_} } keys %session };
    is $wrong->(), 0, "learn $how: 30 sessions found again by two workers";
    ok $gateway->reload, 'reload';
    is $wrong->(), 0, 'and after it';
    ok $gateway->reload(main => $log, workers => 2, http => $http->('256k', '1s')), 'reload with a larger zone';
    is $wrong->(), 0, 'all carried over';
    sleep 1.1;
    cmp_ok $wrong->(), '>', 0, 'forgotten after the timeout';
    unlike $gateway->log, qr/\[(?:emerg|alert|crit|error)\]/, 'nothing bad in the log';
    $gateway->quit;
}

# Bound to a server that is unhealthy, full, or a backup.
{
    my $port    = free_port();
    my $gateway = gateway(main => $log, workers => 2, http => <<"EOT");
        match ok { status 200; json \$.checks.database.status = ok; }
        upstream sick { zone sick 64k; least_conn; server $at[0] route=a; server $at[1] route=b; sticky route \$arg_r; health_check interval=50ms uri=/health match=ok; }
        upstream full { zone full 64k; server 127.0.0.1:$ports[0] route=a max_conns=1; server 127.0.0.1:$ports[1] route=b; sticky route \$arg_r; }
        upstream backup { zone backup 64k; server $at[0] route=a max_fails=0; server 127.0.0.1:1 backup; server $at[2] route=c backup; server $at[1] route=b backup; sticky route \$arg_r; health_check interval=50ms uri=/health?backup match=ok; }
        upstream single { server $at[0] route=a; sticky route \$arg_r; }
        upstream shared { server $at[0] route=a; server $at[1] route=b; server $at[2] route=b; sticky route \$arg_r; }
        server { listen 127.0.0.1:$port; proxy_buffering off; location /sick { proxy_pass http://sick; } location /full { proxy_pass http://full; } location /backup { proxy_pass http://backup; }
            location /single { proxy_pass http://single; } location /shared { proxy_pass http://shared; } location /sub { auth_request /shared; proxy_pass http://single; } }
EOT
    my $bound = sub { my ($path, $r) = @_; join '', map { my $answer = get($port, "/$path?r=$r"); status_of($answer) == 200 ? substr body_of($answer), 0, 1 : 'E' } 1 .. 6 };
    is $bound->('sick', 'b'), '222222', 'healthy: bound';
    is $bound->('backup', 'b'), '111111', 'a backup is not for sessions while a primary one is there';
    $b->sick(2);
    ok wait_until(5, sub { $bound->('sick', 'b') eq '111111' }), 'unhealthy: another';
    $b->well_again(2);
    ok wait_until(5, sub { $bound->('sick', 'b') eq '222222' }), 'healthy again: bound again';
    $b->sick(1);
    ok wait_until(5, sub { $bound->('backup', 'b') eq '222222' && $bound->('backup', 'c') eq '333333' }), 'no primary left: bound to a backup';
    $b->well_again(1);
    ok wait_until(5, sub { $bound->('backup', 'b') eq '111111' }), 'and back';
    is $bound->('single', 'a'), '111111', 'a group of one';
    is $bound->('single', 'x'), '111111', 'a group of one, bound to nobody';
    like $bound->('shared', 'b'), qr/^[23]+$/, 'a route of two servers';
    is $bound->('shared', 'a'), '111111', 'and of the other';
    is $bound->('sub', 'b'), '111111', 'a subrequest has its own server';

    my @sockets = map { my $s = IO::Socket::INET->new("127.0.0.1:$port"); print {$s} "GET /full?r=a&do=slow HTTP/1.0\r\n\r\n"; $s } 1 .. 6;
    my @from = map { my ($s, $text) = ($_, ''); 1 while $text !~ /\r\n\r\n\d/ && sysread $s, $text, 999, length $text; $text =~ /\r\n\r\n(\d)/ } @sockets;
    is join('', sort @from), '122222', 'full: one at its server, the others elsewhere';
    close $_ for @sockets;
    unlike $gateway->log, qr/\[(?:emerg|alert|crit)\]/, 'nothing bad in the log';
    $gateway->quit;
}

# A balancing method of a third party is left alone.
SKIP: {
    my ($fair) = grep { -f } map {"$_/ngx_http_upstream_fair_module.so"} '/usr/lib/nginx/modules';
    skip 'no third-party balancer for this nginx', 3 unless $fair && (nginx_t(main => "load_module $fair;"))[0] == 0;
    my $port    = free_port();
    my $gateway = gateway(main => "load_module $fair; $log", http => "upstream u { fair; server $at[0] route=a; server $at[1] route=b; sticky cookie sid; } server { listen 127.0.0.1:$port; location / { proxy_pass http://u; } }");
    my %from;
    $from{ body_of(get($port, '/', Cookie => 'sid=a')) }++ for 1 .. 8;
    is_deeply \%from, { 1 => 4, 2 => 4 }, 'a third party: by its method';
    like $gateway->log, qr/\[warn\].* upstream "u" has a foreign balancer and is left alone/, 'with a warning';
    ok $gateway->quit, 'quit';
}

# Mistakes: nginx -t names what is wrong, and where.
for my $row (
    [ 'sticky;',                                 'invalid number of arguments in "sticky" directive' ],
    [ 'sticky ip;',                              '"sticky" directive has invalid value "ip" of "sticky", "cookie", "route" or "learn" expected' ],
    [ 'sticky cookie;',                          'invalid value "" of "cookie", a name of a cookie expected' ],
    [ 'sticky cookie "a b";',                    'invalid value "a b" of "cookie"' ],
    [ 'sticky cookie a=b;',                      'invalid value "a=b" of "cookie"' ],
    [ 'sticky cookie sid expires=soon;',         'invalid value "soon" of "expires"' ],
    [ 'sticky cookie sid expires=0;',            'invalid value "0" of "expires", at least 1s expected' ],
    [ 'sticky cookie sid "path=/;x";',           'invalid value "/;x" of "path"' ],
    [ 'sticky cookie sid domain=;',              'invalid value "" of "domain"' ],
    [ 'sticky cookie sid secure=1;',             'invalid value "1" of "secure", no value expected' ],
    [ 'sticky cookie sid samesite=maybe;',       'invalid value "maybe" of "samesite"' ],
    [ 'sticky cookie sid secure secure;',        'duplicate parameter "secure"' ],
    [ 'sticky cookie sid sync;',                 'unknown parameter "sync"' ],
    [ 'sticky cookie a; sticky cookie b;',       '"sticky" directive is duplicate' ],
    [ 'sticky route;',                           'needs a variable after "route"' ],
    [ 'sticky route r;',                         'invalid value "r" of "route", a variable expected' ],
    [ 'sticky learn lookup=$arg_a zone=z:64k;',  'must have "create" parameter' ],
    [ 'sticky learn create=$arg_a zone=z:64k;',  'must have "lookup" parameter' ],
    [ 'sticky learn create=$arg_a lookup=$arg_a;', 'must have "zone" parameter' ],
    [ 'sticky learn create=a lookup=$arg_a zone=z:64k;', 'invalid value "a" of "create", a variable expected' ],
    [ 'sticky learn create=$arg_a lookup=$arg_a zone=z;', 'invalid value "z" of "zone", NAME:SIZE' ],
    [ 'sticky learn create=$arg_a lookup=$arg_a zone=z:1k;', 'invalid value "z:1k" of "zone", NAME:SIZE with a size of at least 32k' ],
    [ 'sticky learn create=$arg_a lookup=$arg_a zone=z:64k timeout=0;', 'invalid value "0" of "timeout"' ],
    [ 'sticky learn create=$arg_a lookup=$arg_a zone=z:64k sync;', 'parameter "sync", which is not supported: sessions are this host\'s' ],
    [ 'sticky learn create=$arg_a lookup=$arg_a zone=z:64k x=1;', 'unknown parameter "x=1"' ],
    [ 'server 127.0.0.1:2 route=;',              'invalid value "" of "route"' ],
    [ 'server 127.0.0.1:2 "route=a;b";',         'invalid value "a;b" of "route"' ],
    [ "server 127.0.0.1:2 route=@{[ 'r' x 33 ]};", 'of "route", at most 32 characters' ],
    [ 'keepalive 0; sticky cookie sid;',         'invalid value "0" in "keepalive" directive' ],
    [ 'keepalive 1 2 3;',                        'invalid number of arguments in "keepalive" directive' ],
    [ 'keepalive 1; keepalive 2;',               '"keepalive" directive is duplicate' ],
) {
    my ($text, $message) = @$row;
    my ($status, $said) = nginx_t(http => "\nupstream u { server 127.0.0.1:1;\n\n$text\n}");
    ok $status != 0 && $said =~ /\[emerg\].*\Q$message\E.* in \S+nginx\.conf:12$/m, $text or diag "$status: $said";
}
my ($status, $said) = nginx_t(http => 'upstream u { server 127.0.0.1:1; sticky route $no_such_variable; }');
like $said, qr/\[emerg\].*unknown "no_such_variable" variable/, 'a variable that is not there';
($status, $said) = nginx_t(http => "\n\n\nserver { location / {\nsticky cookie sid; } }");
like $said, qr/"sticky" directive is not allowed here/, 'not in a location';
($status, $said) = nginx_t(http => join '', map {"upstream $_ { server 127.0.0.1:1; sticky learn create=\$arg_a lookup=\$arg_a zone=z:64k; }\n"} 'a', 'b');
like $said, qr/\[emerg\].*"sticky" directive has zone "z", which another upstream has already in /, 'a zone is one upstream\'s';

done_testing;
